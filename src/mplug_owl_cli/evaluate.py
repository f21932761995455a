"""`owl eval`: an exam, its table and its report."""

from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DeviceOption, QuantizeOption


# Over 40 lines for its options.
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="owl-tiny, a folder, an adapter, a hub id, hf:NAME, language:NAME, http://HOST/v1#NAME, "
            "experts:POLICY?EXPERTS#LANGUAGE, or answers:FILE.",
        ),
    ],
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="scenes (six abilities in the drawn world), owleval or text (with --data), or your questions, FORMAT:PATH.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="What the task reads, such as OwlEval's folder; for your own questions, the pictures' folder."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="exact, normalised, contains, vqa, anls or cider; several, each with --metric in front.",
            show_default="the task's own",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="How many questions: scenes for each ability, elsewhere the first ones.",
            min=1,
            show_default="scenes 200, else all",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other questions of scenes.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="How long an answer gets.", min=1, show_default="scenes 48, else 512")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes.", show_default="eval-TASK-MODEL beside the model, or in runs")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask all anew; graded answers go into former-N.")] = False,
    device: DeviceOption = None,
    quantize: QuantizeOption = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost/--no-cost", help="With --quantize, ask the model as it is too and show the difference, with its interval."
        ),
    ] = True,
) -> None:
    """Examine a model. Each answer is kept at once, and the same command again asks only what is missing."""
    from mplug_owl.eval import graders, tasks
    from mplug_owl.eval.exam import Examinee, run_exam

    who: str | Examinee = model
    if model.startswith("experts:"):
        from mplug_owl.experiments.experts.spec import examinee

        who = examinee(model, device, quantize is not None)
    chosen = [graders.find(name) for name in dict.fromkeys(metric or ())]
    exam = tasks.find(task, data)
    folder = run_exam(
        who, exam, data, limit, seed, max_new_tokens, out, fresh, device, chosen, quantize.value if quantize else None
    )
    if quantize and cost:
        from rich.console import Console

        from mplug_owl.eval.quantised import show_cost

        beside = out.with_name(f"{out.name}-unquantized") if out else None
        whole = run_exam(model, exam, data, limit, seed, max_new_tokens, beside, fresh, device, chosen)
        show_cost(whole, folder, data, chosen, Console(markup=False, emoji=False))
    print(folder)
