"""`owl answer`: an answer to every record of a data source."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DeviceOption, ImageRootOption, ModelArgument, QuantizeOption
from mplug_owl_cli.chat import Precision


# Over 40 lines: it is the options.
def answer(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Option("--in", metavar="FORMAT:PATH", help="What is asked, with answers or without; PATH alone is recognised."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the answers go, a line of JSON each.")],
    image_root: ImageRootOption = None,
    question: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="Ask this about each record's pictures.", show_default="what the record says"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many records, the first ones.", min=1, show_default="all")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="How long an answer may get.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 picks the likeliest word; above, words are drawn.", min=0)] = 0.0,
    batch: Annotated[
        int | None,
        typer.Option(help="So many are answered at once.", min=1, show_default="64, of other libraries' fewer"),
    ] = None,
    device: DeviceOption = None,
    dtype: Annotated[Precision, typer.Option("--dtype", help="What weights are kept in; auto is the file's.")] = Precision.auto,
    quantize: QuantizeOption = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Share the work by Ray Data: on this machine, or the cluster that RAY_ADDRESS names.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="With --ray, how many models answer.", min=1, show_default="one for each GPU, else 2")
    ] = None,
) -> None:
    """Answer every record of a data source; after a kill, the same command asks only what is missing."""
    from mplug_owl.chat import Decoding
    from mplug_owl.errors import UserError
    from mplug_owl.eval.bulk.run import AnswerJob, answer_all

    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    decoding = Decoding(max_new_tokens, temperature)
    asked = (model, source, out, image_root, question, limit, decoding, batch, device, dtype.value)
    job = AnswerJob(*asked, quantize.value if quantize else None, rank, processes)
    if not ray:
        if workers is not None:
            raise UserError("--workers counts Ray's; give --ray too, or start several processes with torchrun")
        made = answer_all(job)
    else:
        if processes > 1:
            raise UserError("--ray shares the work itself; start one process, without torchrun")
        from mplug_owl.eval.bulk.on_ray import answer_on_ray

        made = answer_on_ray(job, workers)
    if rank == 0:
        print(made)
