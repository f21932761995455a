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
    from mplug_owl.experiments.demo import demo as tell

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
    init_from: FromOption = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="runs/RECIPE")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in the run's folder.")
    ] = False,
    eval_every: Annotated[
        int | None, typer.Option(help="Ask a few questions about the drawn world every so many steps.", min=1)
    ] = None,
) -> None:
    """Train one stage by a recipe. With --resume, what is not given again is as it was when the run began."""
    from rich.console import Console

    from mplug_owl.train.run import run

    speaks, exam = os.environ.get("RANK", "0") == "0", None
    console = Console(stderr=True, quiet=not speaks)
    folder = out or Path("runs") / _recipe(recipe, [], [setting for setting in settings if setting.startswith("name=")]).name
    saved = _saved(folder, recipe, data, settings, init_from, console) if resume else None
    made = _recipe(recipe, data, settings, init_from, saved)
    if eval_every is not None:
        from mplug_owl.eval import tasks
        from mplug_owl.eval.during import small_exam
        from mplug_owl.train.exam import Exam

        exam = Exam(eval_every, small_exam(tasks.find("scenes"), made.encoding.pictures, console.print))
    finished = run(made, folder, resume, console, exam)
    if speaks:
        print(finished)


@app.command()
def plan(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipes; paradigms.llava is all of its stages.")],
    data: DataOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    init_from: FromOption = None,
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
    for made in [_recipe(stage, data, settings, init_from) for name in recipes for stage in stages(name)]:
        sources, weights = open_data(made.data) if made.data else ([], None)
        processor = load_processor(made.init_from) if sources and made.init_from else None
        plans.append(planning.plan(made, sources, processor, weights))
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


@app.command("eval")
def evaluate(
    model: ModelArgument,
    task: Annotated[str, typer.Argument(metavar="TASK", help="What to ask: scenes, six abilities in the drawn world.")],
    count: Annotated[int, typer.Option(help="How many questions an ability.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Another seed asks other questions.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where the report goes.", show_default="eval-TASK-MODEL beside it")] = None,
) -> None:
    """Examine an owl: six abilities, with the picture, without it and told in words; a table and a report."""
    from rich.console import Console

    from mplug_owl.eval import report, tasks
    from mplug_owl.eval.answer import examine
    from mplug_owl.model.build import load

    asked = tasks.find(task)
    owl = load(model)
    folder = Path(model).resolve()
    name = folder.parent.name if folder.name == "model" else folder.name
    beside = (folder.parent if folder.name == "model" else folder).parent if folder.is_dir() else Path("runs")
    target = out or beside / f"eval-{task}-{name}"
    with Console(stderr=True).status("") as status:
        answered = examine(owl, asked, count, seed, began=lambda sitting: status.update(f"{sitting.table}, {sitting.title} …"))
    report.show(answered, Console())
    report.write(answered, target, name)
    print(target)


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
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from mplug_owl import errors  # not above: importing the package imports torch

        if not isinstance(error, (ValueError, OSError, errors.Interrupted)) or os.environ.get("OWL_DEBUG"):
            raise
        _say(f"owl: {error}")
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(0)


def _recipe(name, data, settings, init_from=None, saved=None):  # type: ignore[no-untyped-def]
    """A recipe by its name, its values those `saved` in a run's recipe.json if there are, the command line's put in."""
    from dataclasses import replace

    from mplug_owl.recipes import find
    from mplug_owl.train.recipe import as_saved, override

    recipe = find(name) if saved is None else as_saved(find(name), saved)
    if data:
        recipe = replace(recipe, data=tuple(data))
    if init_from:
        recipe = replace(recipe, init_from=init_from)
    return override(recipe, settings)


def _saved(folder, name, data, settings, init_from, console):  # type: ignore[no-untyped-def]
    """What a run's recipe.json holds, None where there is none. What of it the command line does not say is shown."""
    import json

    from mplug_owl.train.recipe import as_json, differences

    file = folder / "recipe.json"
    if not file.exists():
        return None
    try:
        saved = dict(json.loads(file.read_text(encoding="utf-8")))
        began = as_json(_recipe(name, [], [], saved=saved))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not the recipe of a run ({str(error).splitlines()[0]})") from error
    given = {setting.partition("=")[0] for setting in settings} | {"data" if data else "", "init_from" if init_from else ""}
    taken = [line for line in differences(began, as_json(_recipe(name, [], []))) if line.partition(":")[0] not in given]
    if taken:
        console.print(f"taken from {file}: {'; '.join(taken)}", markup=False, highlight=False)
    return saved


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
