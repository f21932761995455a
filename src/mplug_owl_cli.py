"""The command `owl`: one verb, one job.

Outside the package and with its imports inside the verbs, so that --help answers at once: importing mplug_owl registers the
model with transformers, which takes seconds.
"""

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

app = typer.Typer(
    name="owl",
    help="mPLUG-Owl: give any language model eyes. Train it in two stages, look into it, talk with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

# The exit code of a run that stopped behind a checkpoint because it was asked to: EX_TEMPFAIL, try again with --resume.
STOPPED = 75

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model's or run's folder, an adapter, or a hub id.")]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's name (see owl recipes), my.module:run or ./mine.py:run.")
]
DataOption = Annotated[
    list[str], typer.Option("--data", metavar="FORMAT:PATH[@WEIGHT]", help="A source; give it again to mix several.")
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe, such as optimizer.lr=1e-4.")
]
FromOption = Annotated[str | None, typer.Option("--from", metavar="RUN", help="The run or model to go on from.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where its pictures and runs go; a folder there before is replaced.")] = Path(
        "runs/demo"
    ),
    steps: Annotated[float, typer.Option(help="Train for this share of the usual steps.", min=0.01, max=10)] = 1.0,
) -> None:
    """The whole story in minutes: draw pictures, train a small owl in stages, talk with it."""
    from mplug_owl.demo import demo as tell

    tell(out, steps)


@app.command()
def chat(
    model: ModelArgument,
    question: Annotated[str | None, typer.Argument(help="Ask this, print the answer and leave.")] = None,
    image: Annotated[list[Path], typer.Option("--image", metavar="FILE", help="A picture to talk about.")] = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(help="How long an answer may get.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 picks the likeliest word; above, words are drawn.", min=0)] = 0.0,
) -> None:
    """Talk with an owl about pictures, in the terminal."""
    from mplug_owl.terminal import talk

    talk(model, question, image, max_new_tokens, temperature)


@app.command()
def train(
    recipe: RecipeArgument,
    data: DataOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    start: FromOption = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="runs/RECIPE")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in the run's folder.")
    ] = False,
) -> None:
    """Train one stage by a recipe."""
    from rich.console import Console

    from mplug_owl.train.run import run

    made = _recipe(recipe, data, settings, start)
    speaks = os.environ.get("RANK", "0") == "0"
    finished = run(made, out or Path("runs") / made.name, resume, Console(stderr=True, quiet=not speaks))
    if speaks:
        print(finished)


@app.command()
def plan(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipes; paradigms.llava is all of its stages.")],
    data: DataOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    start: FromOption = None,
    gpus: Annotated[int, typer.Option(help="How many devices.", min=1)] = 1,
    tflops: Annotated[float, typer.Option(help="Dense bf16 rate of one device; 989 is an H200's or H100's.")] = 989.0,
    memory: Annotated[float, typer.Option(help="Memory of one device in GB.")] = 141.0,
    mfu: Annotated[float, typer.Option(help="Share of that rate which training reaches.", min=0.01, max=1)] = 0.4,
) -> None:
    """What recipes will cost: who learns, parameters, tokens, FLOPs, memory, time. Nothing is trained."""
    from rich.console import Console

    from mplug_owl.model.build import load_processor
    from mplug_owl.recipes import stages
    from mplug_owl.train import plan as planning
    from mplug_owl.train.run import open_data, who_learns

    console, device = Console(), planning.Device(tflops, memory * 1e9 / 2**30, mfu, gpus)
    plans = []
    for made in [_recipe(stage, data, settings, start) for name in recipes for stage in stages(name)]:
        sources = open_data(made.data)[0] if made.data else []
        processor = load_processor(made.start) if sources and made.start else None
        plans.append(planning.plan(made, sources, processor))
        planning.show(plans[-1], device, console, who_learns(plans[-1].parts, made.name))
        console.print()
    if len(plans) > 1:
        console.print(planning.compare(plans, device))


@app.command()
def inspect(
    data: Annotated[str, typer.Argument(metavar="FORMAT:PATH", help="A source; PATH alone is recognised.")],
    model: Annotated[str | None, typer.Option(help="Show the tokens of this model; without it, words.")] = None,
    count: Annotated[int, typer.Option(help="How many conversations to show.", min=0)] = 3,
    max_tokens: Annotated[int, typer.Option(help="Where training would cut.", min=2)] = 1024,
) -> None:
    """What a model will see: pictures, tokens, and the words that are learned, marked."""
    from rich.console import Console

    from mplug_owl.data.inspect import show
    from mplug_owl.data.sources import read
    from mplug_owl.model.build import load_processor

    show(read(data), load_processor(model) if model else None, Console(), count, max_tokens)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A model's folder, the original's layout or ours.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A folder that does not exist yet.")],
    original: Annotated[bool, typer.Option("--original", help="Write the original's layout.")] = False,
    adapter: Annotated[Path | None, typer.Option(help="Merge this LoRA adapter, ours or the original's.")] = None,
    module: Annotated[
        Literal["vision", "language"] | None, typer.Option(help="Write this module alone, to be joined to others.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Write the weights in bf16.")] = False,
) -> None:
    """Original checkpoints to ours and back, LoRA adapters merged, a module taken out."""
    from mplug_owl.model.convert import convert as convert_folder

    convert_folder(source, target, original, adapter, module, bf16)
    print(target)


@app.command()
def recipes() -> None:
    """The recipes there are, a line each."""
    from mplug_owl.recipes import names

    width = max(len(name) for name in names())
    for name, line in names().items():
        print(f"{name:{width}}  {line}")


def main() -> NoReturn:
    """Run a verb. What a user can mend is one clear line; OWL_DEBUG=1 shows where it came from."""
    _be_quiet()
    try:
        app(prog_name="owl")
    except (ValueError, OSError) as error:
        if os.environ.get("OWL_DEBUG"):
            raise
        _say(f"owl: {error}")
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ != "Stopped":  # by its name: importing it would import torch for every verb
            raise
        _say(f"owl: {error}")
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _recipe(name: str, data: list[str], settings: list[str], start: str | None):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from mplug_owl.recipes import find
    from mplug_owl.train.recipe import override

    recipe = find(name)
    if data:
        recipe = replace(recipe, data=tuple(data))
    if start:
        recipe = replace(recipe, start=start)
    return override(recipe, settings)


def _say(sentence: str) -> None:
    """Of the processes that train on one machine the first speaks: they fail for the same reasons."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(sentence, file=sys.stderr)
    else:
        time.sleep(2)  # a launcher that sees one leave ends the others, and the first would not come to speak


def _be_quiet() -> None:
    """Libraries' bars and hints are not ours to show; their errors are."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LOCAL_RANK", "0") != "0":
        warnings.simplefilter("ignore")  # said once is enough


if __name__ == "__main__":
    main()
