"""The tasks there are, by name."""

from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.task import Task
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl.eval.tasks.scenes import DrawnWorld

NAMES = ("scenes", "owleval")


def find(name: str, data: Path | None = None) -> Task:
    """The task of this name, which reads `data` where it needs any. Raises UserError that lists those there are."""
    if name == "scenes":
        return DrawnWorld()
    if name == "owleval":
        if data is None:
            raise UserError("owleval: its questions and pictures are not part of this package; name their folder, --data DIR")
        return OwlEval(data)
    raise UserError(f"no task {name!r}; there is {', '.join(NAMES)}")
