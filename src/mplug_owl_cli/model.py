"""`owl convert`: checkpoints from one layout to another."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="A model: a folder in the original's layout or ours, a hub id, owl-tiny or owl-smol."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder, or an empty one.")],
    original: Annotated[bool, typer.Option("--original", help="Write the original's layout.")] = False,
    adapter: Annotated[Path | None, typer.Option(help="Merge this LoRA adapter, ours or the original's.")] = None,
    module: Annotated[
        Literal["vision", "language"] | None, typer.Option(help="Write this module alone, to be joined to others.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Write the weights in bf16.")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Add what vLLM needs: a token for pictures, and vllm.jinja.")] = False,
) -> None:
    """Convert a checkpoint of the original to ours or back, merge a LoRA adapter, or take a module out."""
    from mplug_owl.errors import UserError
    from mplug_owl.model.convert import convert as convert_folder

    if vllm and (original or module):
        raise UserError("--vllm: vLLM reads whole owls in our layout; leave --original and --module out")
    convert_folder(source, target, original, adapter, module, bf16)
    if vllm:
        from mplug_owl.integrations.vllm import prepare

        prepare(target)
    print(target)
