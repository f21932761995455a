"""Figures: shares of correct answers, each with its interval, in tables of ability by condition."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from mplug_owl.eval.grade import Grade

OVERALL = "overall"


@dataclass(frozen=True)
class Share:
    """How many answers were correct, of how many."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """The share itself, between 0 and 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, between 0 and 1."""
        return wilson(self.correct, self.total)

    def __str__(self) -> str:
        return "{} [{}, {}]".format(*map(_percent, (self.value, *self.interval)))


@dataclass(frozen=True)
class Figures:
    """One table: a column a condition, a row an ability and the last one for all of them together."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Share, ...]], ...]


def share(grades: Sequence[Grade]) -> Share:
    """The correct ones among these grades."""
    return Share(sum(grade.correct for grade in grades), len(grades))


def figures(grades: Sequence[Grade]) -> list[Figures]:
    """The tables of an exam, in the order of its conditions and abilities. All conditions of a table ask the same abilities."""
    tables = []
    for title in dict.fromkeys(grade.answer.condition.table for grade in grades):
        here = [grade for grade in grades if grade.answer.condition.table == title]
        conditions = dict.fromkeys(grade.answer.condition for grade in here)
        rows = []
        for ability in (*dict.fromkeys(grade.answer.question.ability for grade in here), OVERALL):
            graded = [grade for grade in here if ability in (grade.answer.question.ability, OVERALL)]
            shares = [share([grade for grade in graded if grade.answer.condition == condition]) for condition in conditions]
            rows.append((ability, tuple(shares)))
        tables.append(Figures(title, tuple(condition.title for condition in conditions), tuple(rows)))
    return tables


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


def _percent(value: float) -> str:
    """One decimal; a full hundred without, so that the table keeps to its width."""
    return f"{100 * value:.1f}".replace("100.0", "100")
