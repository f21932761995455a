"""Figures: shares of correct answers and mean scores, each with its interval, in tables of ability by condition."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mplug_owl.eval.grade import Grade
from mplug_owl.eval.resampling import UNKNOWN, Interval, mean_interval

OVERALL = "overall"


@dataclass(frozen=True)
class Share:
    """How many answers were correct, of how many that have a grade.

    Args:
        correct: How many were.
        total: Of how many.
        resampled: Its interval resampled by picture, where several questions are about one; None where none share any, and
            where all are correct or none is: resamples are then all alike, which says nothing.
    """

    correct: int
    total: int
    resampled: Interval | None = None

    @property
    def value(self) -> float:
        """The share itself, between 0 and 1; not a number where nothing has a grade."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval, between 0 and 1, and as wide as the one resampled by picture where that is wider."""
        if not self.total:
            return UNKNOWN
        low, high = wilson(self.correct, self.total)
        return (low, high) if self.resampled is None else (min(low, self.resampled[0]), max(high, self.resampled[1]))

    def __str__(self) -> str:
        return _cell(self.value, self.interval)


@dataclass(frozen=True)
class Mean:
    """A mean of scores that are not just right or wrong, such as ANLS, with its 95 % interval resampled by picture.

    The interval is unknown where all scores are alike: so are resamples then, which says nothing.
    """

    value: float
    interval: Interval
    total: int

    def __str__(self) -> str:
        return _cell(self.value, self.interval)


@dataclass(frozen=True)
class Figures:
    """One table: a column a condition, a row an ability and the last one for all of them together.

    Args:
        title: The table's.
        columns: Their titles: the conditions', and graders' and models' names where there are several.
        rows: A name and a figure a column.
        unscored: How many answers of each column have no grade and are in none of its figures.
        correct: What is counted as correct.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Share | Mean, ...]], ...]
    unscored: tuple[int, ...] = ()
    correct: str = "correct"

    @property
    def measure(self) -> str:
        """What the figures are. All scores are shown times 100, CIDEr too, as papers have it."""
        kinds = {type(figure) for _, figures in self.rows for figure in figures}
        shares, means = f"percent {self.correct}", "mean score times 100"
        return shares if Mean not in kinds else means if Share not in kinds else f"{shares} or {means}"


def share(grades: Sequence[Grade]) -> Share:
    """The correct ones among these grades, those without a score left out."""
    scored = [grade for grade in grades if grade.score is not None]
    clusters = [grade.answer.question.cluster for grade in scored]
    correct = sum(grade.correct for grade in scored)
    tells = 1 < len(set(clusters)) < len(clusters) and 0 < correct < len(scored)
    resampled = mean_interval([float(grade.correct) for grade in scored], clusters) if tells else None
    return Share(correct, len(scored), resampled)


def mean(grades: Sequence[Grade]) -> Mean:
    """The mean score of these grades, those without a score left out."""
    scored = [(grade.score, grade.answer.question.cluster) for grade in grades if grade.score is not None]
    if not scored:
        return Mean(math.nan, UNKNOWN, 0)
    scores, clusters = [score for score, _ in scored], [cluster for _, cluster in scored]
    return Mean(math.fsum(scores) / len(scores), mean_interval(scores, clusters), len(scores))


def counted(grades: Sequence[Grade]) -> list[Grade]:
    """The grades that count: a grader's first of each answer, with the picture. The others audit whoever graded."""
    return [grade for grade in grades if grade.round == 0 and grade.shown == "picture"]


def figures(grades: Sequence[Grade]) -> list[Figures]:
    """The tables of an exam, in the order of its conditions and abilities.

    Several models or graders have a column each. A grader whose scores are 0 and 1 has shares, and another one means.
    """
    grades = counted(grades)
    return [
        _table(title, [grade for grade in grades if grade.answer.condition.table == title])
        for title in dict.fromkeys(grade.answer.condition.table for grade in grades)
    ]


def _table(title: str, grades: Sequence[Grade]) -> Figures:
    """One table of these grades."""
    columns: dict[tuple[str, str, str], list[Grade]] = {}
    for grade in grades:
        columns.setdefault((grade.answer.model, grade.answer.condition.title, grade.grader), []).append(grade)
    of_grader = {grader: _figure([one for one in grades if one.grader == grader]) for _, _, grader in columns}
    rows = []
    abilities = dict.fromkeys(grade.answer.question.ability for grade in grades)
    for ability in (*(name for name in abilities if name != OVERALL), OVERALL):
        row = [
            of_grader[name[2]]([one for one in column if ability in (one.answer.question.ability, OVERALL)])
            for name, column in columns.items()
        ]
        rows.append((ability, tuple(row)))
    unscored = tuple(sum(grade.score is None for grade in column) for column in columns.values())
    return Figures(title, _titles(list(columns)), tuple(rows), unscored if any(unscored) else ())


def _figure(grades: Sequence[Grade]) -> Callable[[Sequence[Grade]], Share | Mean]:
    """How a grader's scores are summed up."""
    return share if {grade.score for grade in grades} <= {0, 1, None} else mean


def _titles(columns: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
    """Short names of columns: what differs among them, and the condition where nothing does."""
    differs = [part for part in range(3) if len({column[part] for column in columns}) > 1] or [1]
    return tuple(", ".join(column[part] for part in differs) for column in columns)


def wilson(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share, both ends between 0 and 1.

    The shares p that a test of `correct` out of `total` would not reject: |correct / total - p| <= z sqrt(p (1 - p) / total).
    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212. Unlike the
    share plus and minus a standard error, it has a width at 0 and 1 too. Raises ValueError where there is no such share.
    """
    if not 0 <= correct <= total or total < 1 or not 0 < confidence < 1:
        raise ValueError(f"{correct} correct of {total} at confidence {confidence}: expected 0 <= correct <= total, at least 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    value, width = correct / total, z * z / total
    centre = (value + width / 2) / (1 + width)
    reach = z / (1 + width) * math.sqrt(value * (1 - value) / total + width / (4 * total))
    # At the ends the formula is exact and its rounding is not.
    low = 0.0 if correct == 0 else centre - reach
    return low, 1.0 if correct == total else centre + reach


def _cell(value: float, interval: Interval) -> str:
    """A figure times 100 and its interval, where there is one."""
    if math.isnan(value):
        return "–"
    return _percent(value) + (" [{}, {}]".format(*map(_percent, interval)) if not math.isnan(interval[0]) else "")


def _percent(value: float) -> str:
    """One decimal; a full hundred without, so that the table keeps to its width."""
    return f"{100 * value:.1f}".replace("100.0", "100")
