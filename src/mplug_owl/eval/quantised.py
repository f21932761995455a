"""What quantising a model costs on an exam: the same questions asked of the model as it is, pair by pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mplug_owl.errors import UserError
from mplug_owl.eval.exam_folder import read_exam
from mplug_owl.eval.grade import Grade, Grader
from mplug_owl.eval.resampling import Interval, mean_interval


@dataclass(frozen=True)
class Cost:
    """Mean scores of one condition before and after quantising, of the questions that have both grades.

    Args:
        condition: The condition's title, with its table's name.
        grader: Who graded.
        before: The mean score of the model as it is, between 0 and 1.
        after: That of the quantised model.
        interval: The 95 % interval of `after - before`, resampled by picture.
        changed: How many of the `pairs` have another score than before.
        pairs: How many questions have both grades.
    """

    condition: str
    grader: str
    before: float
    after: float
    interval: Interval
    changed: int
    pairs: int


def costs(before: Sequence[Grade], after: Sequence[Grade]) -> list[Cost]:
    """What changed in each condition, for each grader, in the order of the exam.

    Raises:
        UserError: The two have no question in common.
    """
    kept = {_key(grade): grade.score for grade in before if grade.score is not None}
    groups: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for grade in after:
        if grade.score is not None and (old := kept.get(_key(grade))) is not None:
            condition = f"{grade.answer.condition.table}, {grade.answer.condition.title}"
            groups.setdefault((condition, grade.grader), []).append((old, grade.score, grade.answer.question.cluster))
    if not groups:
        raise UserError("the quantised model and the one as it is have no graded question in common")
    return [_cost(condition, grader, rows) for (condition, grader), rows in groups.items()]


def show_cost(before: Path, after: Path, data: Path | None, graders: Sequence[Grader], console: Console) -> None:
    """Print what differs between the exams in two folders. Without a grader, a sentence that says so.

    Raises:
        UserError: One of the folders holds no exam, or they are about different tasks.
    """
    exam = read_exam([str(before), str(after)], data=data)
    chosen = graders or ((exam.task.grader,) if exam.task.grader is not None else ())
    if not chosen:
        console.print("What quantising costs is not known before both exams are graded; see owl rate and owl judge")
        return
    first, second = exam.models
    grades = [grade for grader in chosen for grade in grader.grades(exam.answers)]
    found = costs(*([grade for grade in grades if grade.answer.model == model] for model in (first, second)))
    table = Table(highlight=False)
    for title in ("condition", first, second, "difference", "changed"):
        table.add_column(title, justify="left" if title == "condition" else "right")
    for one in found:
        name = one.condition if len(chosen) == 1 else f"{one.condition}, {one.grader}"
        table.add_row(
            name, f"{100 * one.before:.1f}", f"{100 * one.after:.1f}", _difference(one), f"{one.changed} of {one.pairs}"
        )
    console.print("what quantising costs, in points [95 % interval of the pairs]", style="bold", highlight=False)
    console.print(table)


def _cost(condition: str, grader: str, rows: Sequence[tuple[float, float, str]]) -> Cost:
    differences, clusters = [after - before for before, after, _ in rows], [cluster for _, _, cluster in rows]
    return Cost(
        condition,
        grader,
        math.fsum(before for before, _, _ in rows) / len(rows),
        math.fsum(after for _, after, _ in rows) / len(rows),
        mean_interval(differences, clusters),
        sum(difference != 0 for difference in differences),
        len(rows),
    )


def _difference(cost: Cost) -> str:
    """Signed points, with their interval where it is known."""
    value = f"{100 * (cost.after - cost.before):+.1f}"
    if math.isnan(cost.interval[0]):
        return value
    return value + " [{:+.1f}, {:+.1f}]".format(*(100 * end for end in cost.interval))


def _key(grade: Grade) -> tuple[object, ...]:
    condition = grade.answer.condition
    return grade.grader, condition.table, condition.title, condition.split, grade.answer.question.id
