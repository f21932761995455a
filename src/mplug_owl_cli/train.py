"""`owl train`, `owl plan` and `owl recipes`: one stage of training, what it costs, and which there are."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DataOption, FromOption, RecipeArgument, SetOption


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

    from mplug_owl.model.load import load_processor
    from mplug_owl.recipes import stages
    from mplug_owl.train.plan import Device
    from mplug_owl.train.plan import plan as make_plan
    from mplug_owl.train.plan_report import compare, show
    from mplug_owl.train.run import open_data, who_learns

    console, device = Console(), Device(tflops, memory * 1e9 / 2**30, mfu, gpus)
    plans = []
    for made in [_recipe(stage, data, settings, init_from) for name in recipes for stage in stages(name)]:
        sources, weights = open_data(made.data) if made.data else ([], None)
        processor = load_processor(made.init_from) if sources and made.init_from else None
        plans.append(make_plan(made, sources, processor, weights))
        show(plans[-1], device, console, who_learns(plans[-1].parts, made.name))
        console.print()
    if len(plans) > 1:
        console.print(compare(plans, device))


def recipes() -> None:
    """The recipes there are, a line each."""
    from rich.console import Console
    from rich.table import Table

    from mplug_owl_cli.recipes import names

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, line in names().items():
        table.add_row(name, line)
    Console(highlight=False, markup=False).print(table)


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
