"""A small exam for the middle of a training run: seconds long, always the same questions."""

from collections.abc import Callable

from mplug_owl.chat import OwlChatModel
from mplug_owl.errors import UserError
from mplug_owl.eval import tasks
from mplug_owl.eval.grade import evaluate
from mplug_owl.eval.statistics import figures
from mplug_owl.eval.task import Task
from mplug_owl.model.load import Owl

COUNT, SEED = 20, 1


def find_task(name: str) -> Task:
    """A task to ask during training, by its name. Raises UserError where it needs people, a judge, or a folder of its own."""
    if name in ("owleval", "text"):
        raise UserError(f"--eval-task {name}: people or a judge grade it afterwards; expected scenes, or FORMAT:PATH")
    return tasks.find(name)


def small_exam(
    task: Task, pictures: bool, report: Callable[[str], None] = lambda line: None, count: int | None = None
) -> Callable[[Owl], dict[str, float]]:
    """An exam to repeat as an owl learns: shares by name, such as `eval/picture/visual`, and a line for `report`.

    The task's first split is asked with the picture and without it; from descriptions where the run sees no `pictures`, or
    as the task has it where it has no such condition.

    Raises:
        UserError: Nobody can say at once which answers are correct.
    """
    if task.grader is None:
        raise UserError(f"{task.name}: people or a judge grade it afterwards; during training ask a task with targets")
    modes = ("picture", "none") if pictures else ("description",)
    first = [one for one in task.conditions if one.split == task.conditions[0].split]
    conditions = [one for one in first if one.mode in modes] or first

    def take(owl: Owl) -> dict[str, float]:
        (made,) = figures(evaluate(OwlChatModel(owl), task, count or COUNT, SEED, conditions))
        overall = made.rows[-1][1]
        shares = ", ".join(f"{share} {title}" for title, share in zip(made.columns, overall, strict=True))
        report(f"exam of {overall[0].total} questions, percent correct: {shares}")
        return {
            f"eval/{condition.mode}/{ability}": share.value
            for ability, row in made.rows
            for condition, share in zip(conditions, row, strict=True)
        }

    return take
