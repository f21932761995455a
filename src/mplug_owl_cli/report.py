"""`owl report`: several systems in one table, figure and page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    entries: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENTRY", help="Exams' folders and files of answers; NAME=PATH calls one otherwise."),
    ] = None,
    grades: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Grades besides those in the entries' folders, or a folder of owl judge; several times."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="What the task reads, where no folder says it.")] = None,
    task: Annotated[str | None, typer.Option(help="What files of answers are about.", show_default="owleval")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where it goes.", show_default="runs/report-TASK")] = None,
    published: Annotated[bool, typer.Option("--published", help="The paper's own counts besides, with intervals.")] = False,
    abilities: Annotated[
        str, typer.Option(metavar="LABELS", help="ours counts a question under one ability, released under all of its own.")
    ] = "ours",
    plan: Annotated[
        float | None,
        typer.Option(
            metavar="D", help="How many questions show a difference of D, such as 0.1 for ten points.", min=0.005, max=1
        ),
    ] = None,
) -> None:
    """Put systems beside each other: letters, intervals, paired tests, abilities, and every answer beside its picture."""
    from mplug_owl.eval.compare.run import ReportRun, run_report

    print(run_report(ReportRun(tuple(entries or ()), tuple(grades or ()), task, data, out, published, abilities, plan)))
