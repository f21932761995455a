"""`owl rate`: people grade answers, blind."""

from pathlib import Path
from typing import Annotated

import typer


def rate(
    entries: Annotated[
        list[str], typer.Argument(metavar="ENTRY", help="Exams' folders or files of answers, each as it is or as NAME=PATH.")
    ],
    task: Annotated[str | None, typer.Option(help="What was asked.", show_default="as the folders say, or owleval")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="The task's questions and pictures.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the grades go; they resume there.", show_default="in an exam's folder, else grades.jsonl"),
    ] = None,
    gold: Annotated[Path | None, typer.Option(metavar="FILE", help="Known grades, to compare people with.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed shows the answers in another order.")] = 0,
    repeat: Annotated[float, typer.Option(help="The share of answers that everybody sees twice.", min=0, max=0.5)] = 0.1,
    limit: Annotated[int | None, typer.Option(help="Grade so many answers, the same for everybody.", min=1)] = None,
    rater: Annotated[str | None, typer.Option(metavar="NAME", help="One person grades, and is not asked for a name.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
) -> None:
    """People grade answers from A to D on a page, without knowing whose they are; Ctrl-C ends it."""
    from mplug_owl.eval.exam_folder import GRADES, folder_of, read_exam
    from mplug_owl.eval.rating.session import RatingSettings, note, rate_answers

    exam = read_exam(entries, task, data, note)
    out = out or (folder_of(entries) or Path()) / GRADES
    rate_answers(exam, RatingSettings(out, gold, seed, repeat, limit, rater, host, port))
