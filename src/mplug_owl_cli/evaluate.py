"""`owl eval`: an exam, its table and its report."""

from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DeviceOption, ModelArgument


def evaluate(
    model: ModelArgument,
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to ask: scenes, six abilities in the drawn world.")],
    limit: Annotated[int, typer.Option(help="How many questions for each ability.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Another seed asks other questions.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where the report goes.", show_default="eval-TASK-MODEL beside it")] = None,
    device: DeviceOption = None,
) -> None:
    """Examine a model in six abilities, with the picture, without it and from a description; writes a report."""
    from rich.console import Console

    from mplug_owl.chat import OwlChatModel, load
    from mplug_owl.eval import grade, report, tasks

    asked = tasks.find(task)
    answering = OwlChatModel(load(model, device))
    folder = Path(model).resolve()
    name = folder.parent.name if folder.name == "model" else folder.name
    beside = (folder.parent if folder.name == "model" else folder).parent if folder.is_dir() else Path("runs")
    target = out or beside / f"eval-{task}-{name}"
    with Console(stderr=True).status("") as status:
        grades = grade.evaluate(
            answering, asked, limit, seed, on_condition=lambda one: status.update(f"{one.table}, {one.title} …")
        )
    report.show(grades, Console())
    report.write(grades, target, name)
    print(target)
