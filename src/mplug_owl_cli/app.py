"""The application that every verb is a command of, and the options that several verbs share."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="owl",
    help="mPLUG-Owl: give any language model eyes. Train it in two stages, examine it, talk with it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="owl-tiny, a folder, an adapter, a hub id, hf:NAME, language:NAME, or http://HOST/v1#NAME."
    ),
]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's name (see owl recipes), my.module:run or ./mine.py:run.")
]
DataOption = Annotated[
    list[str], typer.Option("--data", metavar="FORMAT:PATH[@WEIGHT]", help="A source; give it again to mix several.")
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe, such as optimizer.lr=1e-4, order=blocks."),
]
FromOption = Annotated[str | None, typer.Option("--from", metavar="RUN", help="The run or model to initialise from.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 or mps.", show_default="the best there is"),
]


class Quantisation(StrEnum):
    """What a language model's linear layers are rounded to."""

    int8 = "int8"
    nf4 = "nf4"


QuantizeOption = Annotated[
    Quantisation | None,
    typer.Option(
        help="Keep the language model's linear layers in 8 or 4 bits, for memory; slower.", show_default="as they are"
    ),
]
ImageRootOption = Annotated[
    Path | None,
    typer.Option("--image-root", metavar="FOLDER", help="The folder that picture paths in the data start at."),
]


def print_lines(named: Mapping[str, str]) -> None:
    """Names and a line about each."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, line in named.items():
        table.add_row(name, line)
    Console(highlight=False, markup=False).print(table)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"owl {version('mplug-owl')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """mPLUG-Owl: give any language model eyes. Train it in two stages, examine it, talk with it."""
