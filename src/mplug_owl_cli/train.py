"""`owl train`, `owl plan` and `owl recipes`: one stage of training, what it costs, and which there are."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mplug_owl_cli.app import DataOption, FromOption, ImageRootOption, RecipeArgument, SetOption, print_lines

if TYPE_CHECKING:
    from mplug_owl.train.recipe import Recipe


# Over 40 lines with its options.
def train(
    recipe: RecipeArgument,
    data: DataOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    init_from: FromOption = None,
    image_root: ImageRootOption = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="runs/RECIPE")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest whole checkpoint in the run's folder.")
    ] = False,
    eval_every: Annotated[int | None, typer.Option(help="Ask a few questions every so many steps.", min=1)] = None,
    eval_task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="What --eval-every asks: scenes, or FORMAT:PATH, questions of your own.", show_default="scenes"
        ),
    ] = None,
) -> None:
    """Train one stage by a recipe. With --resume, settings that are not given again come from the run's folder."""
    from mplug_owl.errors import UserError
    from mplug_owl.recipes import find
    from mplug_owl.train.recipe import override
    from mplug_owl.train.reporter import Screen
    from mplug_owl.train.resume import as_started
    from mplug_owl.train.run import train as run

    if eval_task is not None and eval_every is None:
        raise UserError(f"--eval-task {eval_task}: is asked every so many steps; give --eval-every too")
    screen, exam = Screen(), None
    made = find(recipe)  # once, for a user's own file may do anything
    folder = out or Path("runs") / override(made, [setting for setting in settings if setting.startswith("name=")]).name
    if resume:
        given = {setting.partition("=")[0] for setting in settings}
        given |= {name for name, value in (("data", data), ("init_from", init_from), ("image_root", image_root)) if value}
        made = as_started(made, folder, given, screen.note)
    (made,) = _all_changed([made], data, settings, init_from, image_root)
    if eval_every is not None:
        from mplug_owl.eval.during import find_task, small_exam
        from mplug_owl.train.exam import Exam

        exam = Exam(eval_every, small_exam(find_task(eval_task or "scenes"), made.encoding.pictures, screen.console.print))
    finished = run(made, folder, resume=resume, reporter=screen, exam=exam)
    if os.environ.get("RANK", "0") == "0":
        print(finished)


def plan(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Recipes; paradigms.llava is all of its stages.")],
    data: DataOption = [],  # noqa: B006
    settings: SetOption = [],  # noqa: B006
    init_from: FromOption = None,
    image_root: ImageRootOption = None,
    gpus: Annotated[int, typer.Option(help="How many devices.", min=1)] = 1,
    tflops: Annotated[float, typer.Option(help="Dense bf16 rate of one device; 989 is an H200's or H100's.", min=1e-6)] = 989.0,
    memory: Annotated[float, typer.Option(help="Memory of one device in GB.", min=1e-6)] = 141.0,
    mfu: Annotated[float, typer.Option(help="The share of that rate that training reaches.", min=0.01, max=1)] = 0.4,
) -> None:
    """What recipes will cost: trainable parameters, tokens, FLOPs, memory and time. Nothing is run.

    With --from it counts that model's sizes, else the recipe's.
    """
    from rich.console import Console

    from mplug_owl.data.survey import Survey
    from mplug_owl.model.load import load_processor
    from mplug_owl.recipes import find, stages
    from mplug_owl.train.plan import Device
    from mplug_owl.train.plan import plan as make_plan
    from mplug_owl.train.plan_report import compare, show
    from mplug_owl.train.reporter import trainable_table
    from mplug_owl.train.run import open_data

    console, device, plans = Console(), Device(tflops, memory * 1e9 / 2**30, mfu, gpus), []
    every = (find(stage) for name in recipes for stage in stages(name))
    for made in _all_changed(every, data, settings, init_from, image_root):
        if made.init_from and (init_from or Path(made.init_from).exists()):  # else an earlier stage is still to make it
            made = _with_sizes_of(made, made.init_from)
        survey = Survey(*open_data(made.data, made.image_root)) if made.data else None
        processor = load_processor(made.init_from) if survey and made.init_from else None
        plans.append(make_plan(made, survey, processor))
        if survey and not processor:
            console.print("its samples are not measured: --from names a model, whose tokenizer counts their tokens")
        show(plans[-1], device, console, trainable_table(plans[-1].parts, made.name))
        console.print()
    if len(plans) > 1:
        console.print(compare(plans, device))


def _with_sizes_of(recipe: "Recipe", start: str) -> "Recipe":
    """The recipe with the sizes of the model that it starts from."""
    from dataclasses import replace

    from mplug_owl.model.load import load_config

    config = load_config(start)
    return replace(recipe, modules=replace(recipe.modules, config=lambda: config))


def recipes() -> None:
    """List the recipes, a line each."""
    from mplug_owl_cli.recipes import names

    print_lines(names())


def _all_changed(
    recipes: "Iterable[Recipe]", data: list[str], settings: list[str], init_from: str | None, image_root: Path | None
) -> "list[Recipe]":
    """Recipes with what the command line says put in. Raises UserError for a setting that none of them reads."""
    from mplug_owl.train.ranges import check_used

    changed = [_changed(recipe, data, settings, init_from, image_root) for recipe in recipes]
    check_used(changed, settings)
    return changed


def _changed(
    recipe: "Recipe", data: list[str], settings: list[str], init_from: str | None, image_root: Path | None
) -> "Recipe":
    """A recipe with what the command line says put in. Raises UserError for modules of a run that does not build them."""
    from dataclasses import replace

    from mplug_owl.errors import UserError
    from mplug_owl.train.recipe import override

    recipe = replace(
        recipe,
        data=tuple(data) or recipe.data,
        init_from=init_from or recipe.init_from,
        image_root=str(image_root) if image_root else recipe.image_root,
    )
    changed = override(recipe, settings)
    named = [setting for setting in settings if setting.strip().startswith("modules.")]
    if named and changed.init_from is not None:
        raise UserError(
            f"--set {named[0]}: the run starts from {changed.init_from} and its modules; --set init_from=none builds"
        )
    return changed
