"""`owl serve`: OpenAI's interface to models."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DeviceOption, QuantizeOption
from mplug_owl_cli.chat import Precision


# Over 40 lines: it is the options.
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="owl-tiny, folders, adapters, hub ids, each as it is or as NAME=MODEL."),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys that open the door, one a line.", show_default="those of OWL_API_KEYS"),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="No keys; for this machine alone.")] = False,
    allow_host: Annotated[
        list[str], typer.Option(metavar="HOST", help="Fetch pictures from this https host; give it again for several.")
    ] = [],  # noqa: B006
    device: DeviceOption = None,
    dtype: Annotated[Precision, typer.Option("--dtype", help="What weights are kept in; auto is the file's.")] = Precision.auto,
    quantize: QuantizeOption = None,
    temperature: Annotated[
        float, typer.Option(help="Where a request gives none; 0 picks the likeliest word.", min=0, max=2)
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="The longest answer, whatever a request asks for.", min=1)] = 1024,
    max_prompt: Annotated[int, typer.Option(help="The longest prompt in tokens, pictures' positions included.", min=1)] = 8192,
    rows: Annotated[int, typer.Option(help="So many answers are continued at once.", min=1)] = 32,
    queue: Annotated[int, typer.Option(help="So many more wait; others get 429.", min=1)] = 256,
    cache: Annotated[
        int, typer.Option(metavar="MB", help="Memory a model has for what was computed of pictures and conversations.", min=0)
    ] = 384,
    seconds: Annotated[float, typer.Option(help="The longest that one request may take.", min=1)] = 300,
    grace_seconds: Annotated[float, typer.Option("--grace", help="Seconds for the last answers after SIGTERM.", min=1)] = 60,
    web: Annotated[bool, typer.Option("--web", help="Serve a page to talk on, at /web; it needs the extra `web`.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Say after each answer what took how long.")] = False,
) -> None:
    """Serve owls to any program that speaks OpenAI's language; SIGTERM or Ctrl-C ends it."""
    from mplug_owl.errors import UserError

    if no_auth and keys is not None:
        raise UserError("--no-auth needs no keys, and --keys asks for them; give one of them")
    try:
        from mplug_owl.serve.answering import AnswerLimits
        from mplug_owl.serve.api import ServeLimits
        from mplug_owl.serve.lane import LaneLimits
        from mplug_owl.serve.run import ServeSettings, serve
    except ModuleNotFoundError as error:
        raise UserError(f"owl serve needs {error.name}: pip install 'mplug-owl[serve]'") from error
    answers = AnswerLimits(most_tokens=max_tokens, prompt_tokens=max_prompt, seconds=seconds, temperature=temperature)
    limits = ServeLimits(queue, answers, LaneLimits(rows, features=cache * 2**20 // 3, turns=cache * 2**20 * 2 // 3))
    hosts, where = tuple(allow_host), (host, port, keys, not no_auth)
    settings = ServeSettings(models, *where, hosts, device, dtype.value, quantize.value if quantize else None, grace_seconds)
    serve(replace(settings, stats=stats, web=web, limits=limits))
