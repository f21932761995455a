"""`owl demo`: the whole story."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where its pictures and runs go; a folder there before is replaced.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[float, typer.Option(help="Train for this share of the usual steps.", min=0.01, max=10)] = 1.0,
) -> None:
    """The whole story in minutes: draw pictures, train a small owl in stages, talk with it."""
    from mplug_owl.experiments.demo import demo as tell

    tell(out, steps)
