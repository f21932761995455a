"""How far people agree with each other, and each with themselves when they see an answer a second time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mplug_owl.eval.extra import needs
from mplug_owl.eval.grade import LETTERS, Grade
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.resampling import UNKNOWN, Draws, Interval, percentiles

RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """Agreement beyond chance.

    Args:
        about: Between whom.
        answers: On how many answers.
        same: The share of pairs of grades that are the same letter.
        alpha: Krippendorff's, with ordinal distances: 1 is full agreement and 0 is chance. None where all letters are one.
        interval: 95 % of alpha, resampled by picture.
    """

    about: str
    answers: int
    same: float
    alpha: float | None
    interval: Interval


def between_raters(grades: Sequence[Grade]) -> Agreement | None:
    """Agreement between several people on answers that at least two of them graded; None where there is no such answer."""
    first = [grade for grade in grades if grade.kind == "person" and grade.round == 0 and grade.letter is not None]
    return _agreement("between people", [(grade.grader, key(grade.answer), grade) for grade in first])


def test_retest(grades: Sequence[Grade]) -> Agreement | None:
    """Agreement of people with themselves, on answers that they graded twice. Several people are taken together."""
    mine = [grade for grade in grades if grade.kind == "person" and grade.letter is not None]
    rows = [("first" if grade.round == 0 else "again", (grade.grader, *key(grade.answer)), grade) for grade in mine]
    return _agreement("test-retest", rows)


def _agreement(about: str, rows: Sequence[tuple[str, Key | tuple[str, ...], Grade]]) -> Agreement | None:
    """Agreement among (rater, unit, grade): units that fewer than two raters graded tell nothing."""
    units: dict[tuple[str, ...], dict[str, Grade]] = {}
    for rater, unit, grade in rows:
        units.setdefault(unit, {})[rater] = grade
    shared = [found for found in units.values() if len(found) > 1]
    if not shared:
        return None
    raters = list(dict.fromkeys(rater for found in shared for rater in found))
    levels = np.full((len(raters), len(shared)), np.nan)
    for column, found in enumerate(shared):
        for rater, grade in found.items():
            levels[raters.index(rater), column] = LETTERS.index(grade.letter) if grade.letter else np.nan
    draws = Draws([next(iter(found.values())).answer.question.cluster for found in shared], RESAMPLES)
    interval = UNKNOWN
    if draws.count > 1:
        columns = np.arange(len(shared))
        drawn = [
            ordinal_alpha(levels[:, np.repeat(columns, times)])
            for counts in draws.counts()
            for times in counts[:, draws.cluster_of]
        ]
        interval = percentiles(np.array([np.nan if alpha is None else alpha for alpha in drawn]))
    return Agreement(about, len(shared), _same(levels), ordinal_alpha(levels), interval)


def ordinal_alpha(levels: NDArray[np.float64]) -> float | None:
    """Krippendorff's alpha with ordinal distances, raters by units, NaN where a rater gave no level; None where all are alike.

    K. Krippendorff, Content Analysis (2018), chapter 12. Raises UserError without evalica.
    """
    with needs("evalica"):
        import evalica
        import pandas as pd
    known = levels[:, (~np.isnan(levels)).sum(0) > 1]
    if len(np.unique(known[~np.isnan(known)])) < 2:
        return None
    return float(evalica.alpha(pd.DataFrame(known), distance="ordinal").alpha)


def _same(levels: NDArray[np.float64]) -> float:
    """The share of all pairs of raters' grades of one answer that are the same letter."""
    same = pairs = 0
    for column in levels.T:
        known = column[~np.isnan(column)]
        pairs += len(known) * (len(known) - 1)
        same += int((known[:, None] == known[None, :]).sum()) - len(known)
    return same / pairs
