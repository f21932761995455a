"""`owl judge`: a model that sees the pictures grades answers, and is judged itself."""

from pathlib import Path
from typing import Annotated

import typer

from mplug_owl_cli.app import DeviceOption

AUDITED = 100


# Over 40 lines with its options.
def judge(
    judge: Annotated[
        str, typer.Argument(metavar="JUDGE", help="Who grades: http://HOST/v1#MODEL, or any model that owl chat takes.")
    ],
    entries: Annotated[
        list[str],
        typer.Argument(metavar="ENTRY", help="Exams' folders or files of answers; NAME=PATH calls one otherwise."),
    ],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="What the task reads, where no folder says it.")] = None,
    task: Annotated[str | None, typer.Option(help="What files of answers are about.", show_default="owleval")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where grades go.", show_default="the exam's folder; runs/judge-TASK-JUDGE for several"
        ),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Compare every two systems' answers too, in both orders.")] = False,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Audit the judge: ask again, without the picture, and with a wrong one; its passport shows what changed.",
        ),
    ] = False,
    sample: Annotated[int | None, typer.Option(help="How many answers are audited.", min=1, show_default=str(AUDITED))] = None,
    limit: Annotated[int | None, typer.Option(help="The first questions of each condition.", min=1, show_default="all")] = None,
    people: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="People's grades.jsonl of the same answers; give it again for more."),
    ] = None,
    price_in: Annotated[float | None, typer.Option(help="What a million tokens cost that the judge reads.", min=0)] = None,
    price_out: Annotated[float | None, typer.Option(help="What a million tokens cost that it writes.", min=0)] = None,
    device: DeviceOption = None,
) -> None:
    """Let a model that sees the pictures grade answers from A to D. The same command again asks only what is missing."""
    from mplug_owl.errors import UserError
    from mplug_owl.eval.judge.judging import Judging
    from mplug_owl.eval.judge.run import JudgeRun, run_judge

    if sample is not None and not audit:
        raise UserError("--sample says how many answers --audit asks about again; give --audit too")
    print(
        run_judge(
            JudgeRun(
                judge,
                tuple(entries),
                Judging(limit, pairs, (sample or AUDITED) if audit else None),
                task,
                data,
                out,
                tuple(people or ()),
                price_in,
                price_out,
                device,
            )
        )
    )
