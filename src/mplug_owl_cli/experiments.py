"""`owl demo`: the whole story. `owl ablate`: a study of many runs."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where its pictures and runs go; an earlier demo there is replaced.")] = Path(
        "runs/demo"
    ),
    minutes: Annotated[
        float | None, typer.Option(help="Train for as many steps as fit into so many minutes on this machine.", min=1)
    ] = None,
    steps: Annotated[float, typer.Option(help="Train for this share of the usual steps.", min=0.01, max=10)] = 1.0,
) -> None:
    """The whole story in minutes: draw pictures, train a small model in two stages, examine it and talk with it."""
    from mplug_owl.errors import UserError
    from mplug_owl.experiments.demo import demo as tell

    if minutes is not None and steps != 1.0:
        raise UserError("--minutes and --steps both say how long to train; give one of them")
    tell(out, steps, minutes)


# Over 40 lines with its options.
def ablate(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="training, data, paradigms, smol, my.module:study or ./mine.py:study.")
    ],
    out: Annotated[Path | None, typer.Option(help="The study's folder.", show_default="runs/STUDY")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Seeds of each arm; fewer than three give no intervals.", min=1, show_default="3, --quick 1"),
    ] = None,
    steps: Annotated[
        float | None, typer.Option(help="Train for this share of the study's usual steps.", min=0.001, max=10)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One seed in 30 minutes: a try, not to be believed.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it costs and what it can show; train nothing.")] = False,
    arm: Annotated[list[str] | None, typer.Option(help="Train this arm alone; give it again for another.")] = None,
    reuse: Annotated[Path | None, typer.Option(help="Another study's folder: stages that both have are copied.")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write the page of what is done; train nothing.")] = False,
) -> None:
    """Run a study: every arm with every seed, one exam, and a page with intervals. Run it again to resume or to share work."""
    from rich.console import Console

    from mplug_owl.errors import UserError
    from mplug_owl.experiments.ablation import SEEDS, as_run, read_settings
    from mplug_owl.experiments.ablation import ablate as run
    from mplug_owl.experiments.ablation import report as write_report
    from mplug_owl.experiments.ablation_plan import show_plan
    from mplug_owl.experiments.study import find, scaled

    if quick and steps is not None:
        raise UserError("--quick and --steps both say how long to train; give one of them")
    if quick and (seeds or 1) > 1:
        raise UserError(f"--quick is a try with one seed, and --seeds {seeds} asks for more; give one of them")
    if plan and report:
        raise UserError("--plan says what a study will cost, --report what came out of it; give one of them")
    training = (("--arm", arm), ("--reuse", reuse), ("--quick", plan and quick), ("--steps", report and steps is not None))
    if (plan or report) and (given := [name for name, there in training if there]):
        raise UserError(f"{', '.join(given)}: says how to train, and --plan and --report train nothing; leave it out")
    made = find(study)
    folder = out or Path("runs") / (f"{made.name}-quick" if quick else made.name)
    console = Console(highlight=False)
    if plan:
        begun = read_settings(folder) if steps is None else None
        if begun is not None and begun.study != made.name:
            raise UserError(f"{folder}: holds the study {begun.study}, not {made.name}; give another --out")
        length = seeds or (1 if begun is not None and begun.quick else SEEDS)
        show_plan(as_run(made, begun) if begun else scaled(made, steps or 1.0), folder, length, console)
    elif report:
        write_report(made, folder, seeds, console)
    else:
        run(made, folder, seeds, steps, quick, console, arm or (), reuse)
