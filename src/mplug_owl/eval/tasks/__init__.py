"""The tasks there are, by name."""

from mplug_owl.errors import UserError
from mplug_owl.eval.task import Task
from mplug_owl.eval.tasks.scenes import DrawnWorld

TASKS: tuple[Task, ...] = (DrawnWorld(),)


def find(name: str) -> Task:
    """The task of this name. Raises UserError that lists those there are."""
    for task in TASKS:
        if task.name == name:
            return task
    raise UserError(f"no task {name!r}; there is {', '.join(task.name for task in TASKS)}")
