"""Two systems answered the same questions: which is better, by how much, and whether chance alone would do that."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from mplug_owl.eval.extra import needs
from mplug_owl.eval.grade import LETTERS, Grade
from mplug_owl.eval.resampling import Draws, Interval


@dataclass(frozen=True)
class PairedDifference:
    """The first system against the second one, on the answers that are graded for both.

    Where all questions say the same, such as no difference at all, resamples are alike and no interval is known.

    Args:
        first: Its name.
        second: The other's.
        total: How many questions both have a letter for.
        first_alone: On how many the first alone is acceptable, A or B.
        second_alone: And the second alone.
        p_value: McNemar's exact test of the two: how often chance would make them at least as unequal.
        adjusted: The same by Holm, for all pairs of the table together.
        difference: The first's share of A or B less the second's.
        difference_interval: 95 %, resampled by picture.
        better: On how many the first has the better letter.
        worse: And the worse one.
        net_interval: 95 % of `net`, resampled by picture.
    """

    first: str
    second: str
    total: int
    first_alone: int
    second_alone: int
    p_value: float
    adjusted: float
    difference: float
    difference_interval: Interval
    better: int
    worse: int
    net_interval: Interval

    @property
    def net(self) -> float:
        """The share of questions on which the first is better, less that on which it is worse: letters' order alone counts."""
        return (self.better - self.worse) / self.total

    @property
    def discordant(self) -> float:
        """The share of questions on which one of the two alone is acceptable."""
        return (self.first_alone + self.second_alone) / self.total


def paired_differences(grades: Sequence[Grade]) -> list[PairedDifference]:
    """Every two systems among these grades, of which an answer has one at most. Raises UserError without statsmodels."""
    by_system: dict[str, dict[tuple[str, ...], Grade]] = {}
    for grade in grades:
        if grade.letter is not None and grade.answer.text:
            question, condition = grade.answer.question, grade.answer.condition
            by_system.setdefault(grade.answer.model, {})[condition.split, condition.mode, question.id] = grade
    found = []
    for one, other in combinations(by_system, 2):
        both = [(by_system[one][name], by_system[other][name]) for name in by_system[one] if name in by_system[other]]
        if both:
            found.append(_difference(one, other, both))
    return [replace(each, adjusted=p) for each, p in zip(found, holm([each.p_value for each in found]), strict=True)]


def mcnemar(first_alone: int, second_alone: int) -> float:
    """The exact test's p-value: each alone would be a coin's side.

    Q. McNemar, Psychometrika 12 (1947), 153-157. Questions about one picture are counted as if they were independent.
    """
    with needs("statsmodels"):
        from statsmodels.stats.contingency_tables import mcnemar as test
    if first_alone + second_alone == 0:
        return 1.0
    return min(float(test([[0, first_alone], [second_alone, 0]], exact=True).pvalue), 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, so that in 95 of 100 tables none is below 0.05 by chance.

    S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    if not p_values:
        return []
    with needs("statsmodels"):
        from statsmodels.stats.multitest import multipletests
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _difference(first: str, second: str, both: Sequence[tuple[Grade, Grade]]) -> PairedDifference:
    """One pair of systems. The same pictures are drawn for the two."""
    accepted = np.array([[one.correct, other.correct] for one, other in both], dtype=np.float64)
    ranks = np.array([[LETTERS.index(grade.letter) for grade in pair if grade.letter] for pair in both])
    sides = np.sign(ranks[:, 1] - ranks[:, 0]).astype(np.float64)  # A is 0: a smaller rank is better
    draws = Draws([one.answer.question.cluster for one, _ in both])
    gaps = accepted[:, 0] - accepted[:, 1]
    intervals = [draws.mean_interval(each.tolist()) for each in (gaps, sides)]
    alone = int((gaps > 0).sum()), int((gaps < 0).sum())
    p_value = mcnemar(*alone)
    better, worse = int((sides > 0).sum()), int((sides < 0).sum())
    return PairedDifference(
        first, second, len(both), *alone, p_value, p_value, float(gaps.mean()), intervals[0], better, worse, intervals[1]
    )
