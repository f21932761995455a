"""The table of questions in words: a model's scores beside the reference's, by category, and the ratio of their sums."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import cast

import numpy as np
from rich.console import Console
from rich.table import Table

from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.judge.scores import VERSION
from mplug_owl.eval.resampling import Draws, Interval, percentiles
from mplug_owl.eval.statistics import OVERALL


@dataclass(frozen=True)
class ScoreRow:
    """One category, or all: mean scores of 1 to 10, and the ratio of the sums with its 95 % interval, resampled by question."""

    category: str
    questions: int
    model: float
    reference: float
    ratio: float
    interval: Interval | None


@dataclass(frozen=True)
class TextTable:
    """What a judge makes of one model.

    Args:
        model: Whose answers.
        judge: Who scored them.
        rows: A category each, and all of them last; empty where nothing was scored.
        unreadable: How many have a reply that holds no scores.
        unanswered: How many questions the model gave no answer to.
        without_reference: How many answers have nothing to be scored beside.
        first_gains: How many points more an answer gets for being shown first: the mean over both orders.
    """

    model: str
    judge: str
    rows: tuple[ScoreRow, ...]
    unreadable: int
    unanswered: int
    without_reference: int
    first_gains: float


def text_tables(exam: Exam, grades: Sequence[Grade], judge: str) -> list[TextTable]:
    """A table for each model of an exam, from this judge's grades."""
    mine = [one for one in grades if one.grader == judge and one.kind == "judge" and one.details.get("prompt") == VERSION]
    return [_table(model, exam, [one for one in mine if one.answer.model == model], judge) for model in exam.models]


def _table(model: str, exam: Exam, grades: Sequence[Grade], judge: str) -> TextTable:
    scored = [one for one in grades if one.score is not None]
    by_category: dict[str, list[Grade]] = {one.question.ability: [] for one in exam.answers if one.question.ability != OVERALL}
    for one in scored:
        by_category.setdefault(one.answer.question.ability, []).append(one)
    by_category = {**by_category, OVERALL: scored}
    rows = [_row(name, here) for name, here in by_category.items() if here]
    gains = [(m1 - r1 + r2 - m2) / 2 for one in scored for (m1, m2), (r1, r2) in [_scores(one)]]
    return TextTable(
        model,
        judge,
        tuple(rows),
        sum(one.details.get("why") == "unreadable" for one in grades),
        sum(one.details.get("why") == "no answer" for one in grades),
        sum(one.model == model and not one.question.accepted for one in exam.answers),
        fmean(gains) if gains else 0.0,
    )


def _row(category: str, grades: Sequence[Grade]) -> ScoreRow:
    """One row. Turns of one dialogue are drawn as one question. One question alone has no interval."""
    points = np.array([[fmean(model), fmean(reference)] for model, reference in map(_scores, grades)])
    draws = Draws([one.answer.question.cluster for one in grades])
    interval = None
    if draws.count > 1:
        sums = draws.totals(points)
        interval = percentiles(sums[:, 0] / sums[:, 1])
    model, reference = map(float, points.mean(axis=0))
    return ScoreRow(category, len(grades), model, reference, model / reference, interval)


def _scores(grade: Grade) -> tuple[list[float], list[float]]:
    """A grade's scores in both orders, the model's and the reference's."""
    scores = cast(Mapping[str, list[float]], grade.details)
    return scores["model"], scores["reference"]


def show_text(tables: Sequence[TextTable], console: Console) -> None:
    """The tables on a screen, each with what is not in its figures."""
    for made in tables:
        console.print(f"{made.model}: scores of 1 to 10 by {made.judge}, in both orders", style="bold", highlight=False)
        if made.rows:
            table = Table("category", highlight=False)
            for title in ("questions", "model", "reference", "model / reference [95 % interval]"):
                table.add_column(title, justify="right")
            for row in made.rows:
                if row.category == OVERALL:
                    table.add_section()
                ends = f" [{row.interval[0]:.1%}, {row.interval[1]:.1%}]" if row.interval else ""
                numbers = f"{row.model:.2f}", f"{row.reference:.2f}", f"{row.ratio:.1%}{ends}"
                style = "bold" if row.category == OVERALL else None
                table.add_row(row.category, str(row.questions), *numbers, style=style)
            console.print(table)
        for line in _left_out(made):
            console.print(line, highlight=False, soft_wrap=True)


def _left_out(made: TextTable) -> Iterator[str]:
    """What the figures do not hold, and what the order does."""
    if made.without_reference:
        yield f"{made.without_reference} answers have no reference and are not scored."
    if made.unanswered:
        yield f"{made.unanswered} questions have no answer and are not scored."
    if made.unreadable:
        yield f"{made.unreadable} answers are not scored: a reply holds no SCORES (see details in grades.jsonl)."
    if made.rows:
        yield f"An answer gets {made.first_gains:+.2f} points for being shown first."


def plain(tables: Sequence[TextTable]) -> list[dict[str, object]]:
    """The tables as plain values, for a file."""
    return [asdict(made) for made in tables]
