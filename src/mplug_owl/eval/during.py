"""A small exam for the middle of a training run: seconds long, always the same questions."""

from collections.abc import Callable

from mplug_owl.eval import report
from mplug_owl.eval.answer import examine
from mplug_owl.eval.task import Task
from mplug_owl.model.build import Owl

COUNT, SEED = 20, 1


def small_exam(
    task: Task, pictures: bool, tell: Callable[[str], None] = lambda line: None, count: int | None = None
) -> Callable[[Owl], dict[str, float]]:
    """Something to ask an owl again and again: shares by name, such as `eval/picture/visual`, and a line for `tell`.

    The task's first split is asked with the picture and without it, or told in words where the run sees no `pictures`.
    """
    modes = ("picture", "none") if pictures else ("told",)
    sittings = [one for one in task.sittings if one.split == task.sittings[0].split and one.mode in modes]

    def take(owl: Owl) -> dict[str, float]:
        answered = examine(owl, task, count or COUNT, SEED, sittings)
        (made,) = report.figures(answered)
        overall = ", ".join(f"{one} {title}" for title, one in zip(made.columns, made.rows[-1][1], strict=True))
        tell(f"exam of {made.rows[-1][1][0].asked} questions, percent right: {overall}")
        return {
            f"eval/{sitting.mode}/{ability}": one.right / one.asked
            for ability, shares in made.rows
            for sitting, one in zip(sittings, shares, strict=True)
        }

    return take
