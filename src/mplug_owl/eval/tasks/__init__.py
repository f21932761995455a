"""The tasks there are, by name."""

from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.task import Task
from mplug_owl.eval.tasks.from_data import FromData, is_source
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.eval.tasks.text import TextQuestions

NAMES = ("scenes", "owleval", "text")


def find(name: str, data: Path | None = None) -> Task:
    """The task of this name, which reads `data` where it needs any. Raises UserError that lists those there are.

    The name of a data source, FORMAT:PATH, is a task too: its questions, with the pictures below `data` where there is one.
    """
    if name == "scenes":
        if data is not None:
            raise UserError("scenes: draws its own pictures and questions; leave --data out")
        return DrawnWorld()
    if name == "owleval":
        if data is None:
            raise UserError("owleval: its questions and pictures are not part of this package; name their folder, --data DIR")
        return OwlEval(data)
    if name == "text":
        if data is None:
            raise UserError("text: its questions are not part of this package; name their folder or JSON lines, --data PATH")
        return TextQuestions(data)
    if is_source(name):
        return FromData(name, data)
    raise UserError(f"no task {name!r}; there is {', '.join(NAMES)}, or your own questions, FORMAT:PATH")
