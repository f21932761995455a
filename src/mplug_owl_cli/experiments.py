"""`owl demo`: the whole story."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where its pictures and runs go; a folder there before is replaced.")] = Path(
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
