"""`owl index`: what is in shards, read once and kept."""

from typing import Annotated

import typer


def index(
    data: Annotated[list[str], typer.Argument(metavar="PATH", help="Shards: a folder, a pattern or an address.")],
    beside: Annotated[
        bool | None,
        typer.Option(
            "--beside/--cache", help="Keep it beside the shards, or in your cache.", show_default="beside, if allowed"
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="How many processes read.", min=1, show_default="one a core")] = None,
) -> None:
    """Read what is in WebDataset shards once, so that they open at once. Stop it at any time; it resumes where it was."""
    import os

    from rich.console import Console

    from mplug_owl.data.sources.indexing import index as make

    for spec in data:
        for path in make(spec, beside, workers or os.cpu_count() or 1, Console(stderr=True)):
            print(path)
