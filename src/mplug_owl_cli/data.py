"""`owl inspect`: what a model will see."""

from typing import Annotated

import typer

from mplug_owl_cli.app import ImageRootOption, print_lines


def inspect(
    data: Annotated[
        str | None, typer.Argument(metavar="FORMAT:PATH", help="A source; PATH alone is recognised.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Show the tokens of this model; without it, words.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many conversations to show.", min=0)] = 3,
    image_root: ImageRootOption = None,
    max_tokens: Annotated[
        int, typer.Option(help="How many tokens a conversation may have before training cuts it.", min=2)
    ] = 1024,
    formats: Annotated[bool, typer.Option("--formats", help="List the formats that are read, and nothing else.")] = False,
) -> None:
    """What a model will see: pictures, tokens, and the supervised words, marked."""
    from rich.console import Console

    from mplug_owl.data.inspect import show
    from mplug_owl.data.sources import read
    from mplug_owl.data.sources.registry import FORMATS
    from mplug_owl.errors import UserError
    from mplug_owl.model.load import load_processor

    if formats:
        print_lines({name: one.description for name, one in FORMATS.items()})
        return
    if data is None:
        raise UserError("no data is named; expected FORMAT:PATH, or --formats, which lists the formats")
    show(read(data, image_root), load_processor(model) if model else None, Console(), limit, max_tokens)
