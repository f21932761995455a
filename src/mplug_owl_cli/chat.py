"""`owl chat`: a conversation in the terminal."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DeviceOption, ModelArgument, QuantizeOption
from mplug_owl_cli.one_process import one_process


class Precision(StrEnum):
    """What weights are kept in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


def chat(
    model: ModelArgument,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="Ask this, print the answer and leave.")] = None,
    image: Annotated[
        list[Path], typer.Option("--image", metavar="FILE", help="A picture to talk about; give it again for several.")
    ] = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="How long an answer may get.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 picks the likeliest word; above, words are drawn.", min=0)] = 0.0,
    stop: Annotated[
        list[str], typer.Option(metavar="WORD", help="An answer ends before this word; give it again for several.")
    ] = [],  # noqa: B006
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, what was said becomes less likely.", min=0.01)] = 1.0,
    device: DeviceOption = None,
    dtype: Annotated[
        Precision,
        typer.Option(
            "--dtype",
            help="What weights are kept in; auto is the file's. int8 is quickest on a CPU: what is multiplied is rounded too.",
        ),
    ] = Precision.auto,
    quantize: QuantizeOption = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Say after each answer when its first word came, and what took how long.")
    ] = False,
) -> None:
    """Talk with an owl about pictures, in the terminal."""
    with one_process():
        from mplug_owl.chat import Decoding
        from mplug_owl.terminal import talk

        decoding = Decoding(max_new_tokens, temperature, stop=tuple(stop), repetition_penalty=repetition_penalty)
        talk(model, question, image, decoding, device, stats, dtype.value, quantize.value if quantize else None)
