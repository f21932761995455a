"""Shares of A or B as a judge sees them, corrected by the errors that people found the judge to make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mplug_owl.eval.grade import ACCEPTABLE, Grade, Letter
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.judge.agreement import Numbers, resampled


@dataclass(frozen=True)
class JudgeErrors:
    """How often a judge agrees with people on A or B.

    Args:
        specificity: The share of what people grade C or D that the judge grades so too.
        sensitivity: The share of what people grade A or B that the judge grades so too.
        bad: How many answers the first is from.
        good: How many the second is from.
    """

    specificity: float
    sensitivity: float
    bad: int
    good: int


@dataclass(frozen=True)
class CorrectedShare:
    """One system's share of A or B in one condition: as judged, and corrected.

    Args:
        model: The system.
        split: The condition's split.
        mode: And its mode.
        judged: The judge's share.
        count: Of so many answers with a grade.
        value: The corrected share; None where the judge is no better than chance.
        interval: 95 %, from pictures drawn anew: the judged answers and those that people graded too.
    """

    model: str
    split: str
    mode: str
    judged: float
    count: int
    value: float | None
    interval: tuple[float, float] | None


def judge_errors(judged: Iterable[Grade], people: Mapping[Key, Letter]) -> JudgeErrors | None:
    """A judge's errors against people's letters; None where people called no answer good, or none bad."""
    both = [(_good(grade.letter), _good(people[key(grade.answer)])) for grade in judged if _counts(grade, people)]
    bad = [not judge for judge, truly in both if not truly]
    good = [judge for judge, truly in both if truly]
    if not bad or not good:
        return None
    return JudgeErrors(sum(bad) / len(bad), sum(good) / len(good), len(bad), len(good))


def corrected_shares(judged: Sequence[Grade], people: Mapping[Key, Letter]) -> list[CorrectedShare]:
    """Every system's shares, a row a condition. Empty where people's grades do not say how the judge errs.

    arXiv 2511.21140: (p + q0 - 1) / (q0 + q1 - 1), with p the judge's share, q0 its specificity and q1 its sensitivity. One
    judge is taken to err alike for all systems. The interval is a bootstrap by picture; in each resample q0 and q1 have one
    success and one failure added, so that none of them is certain.
    """
    errors = judge_errors(judged, people)
    if errors is None:
        return []
    lettered = [grade for grade in judged if grade.letter is not None]
    rows = []
    for asked in dict.fromkeys(key(grade.answer)[:3] for grade in lettered):
        here = [key(grade.answer)[:3] == asked for grade in lettered]
        good = [_good(grade.letter) for grade, mine in zip(lettered, here, strict=True) if mine]
        share = sum(good) / len(good)
        value = corrected(share, errors.specificity, errors.sensitivity)
        ends = _interval(lettered, here, people, value) if value is not None else None
        rows.append(CorrectedShare(*asked, share, len(good), value, ends))
    return rows


def corrected(share: float, specificity: float, sensitivity: float) -> float | None:
    """A judged share corrected, between 0 and 1; None where the judge is no better than chance."""
    better = specificity + sensitivity - 1
    return min(max((share + specificity - 1) / better, 0.0), 1.0) if better > 0 else None


def _interval(judged: Sequence[Grade], here: Sequence[bool], people: Mapping[Key, Letter], value: float) -> tuple[float, float]:
    """Where nothing is known of a judge that does no better than chance in a resample, the share may be anything there."""
    values = np.array([_row(grade, mine, people) for grade, mine in zip(judged, here, strict=True)], dtype=np.float64)
    clusters = [grade.answer.question.cluster for grade in judged]
    found = resampled(clusters, values, _resampled_shares)
    found = found[~np.isnan(found)]
    unknown = np.isinf(found)
    low = float(np.quantile(np.where(unknown, 0.0, found), 0.025))
    high = float(np.quantile(np.where(unknown, 1.0, found), 0.975))
    return min(low, value), max(high, value)


def _row(grade: Grade, here: bool, people: Mapping[Key, Letter]) -> tuple[bool, ...]:
    """Judged, good; and where people graded too: bad, found bad, good, found good."""
    judge = _good(grade.letter)
    letter = people.get(key(grade.answer))
    truly, known = _good(letter), letter is not None
    return here, here and judge, known and not truly, known and not truly and not judge, truly, truly and judge


def _resampled_shares(sums_RV: Numbers) -> Numbers:
    """NaN where a resample has no answer of the system, infinite where the judge is no better than chance."""
    count, good, bad, found_bad, truly_good, found_good = sums_RV.T
    specificity, sensitivity = (found_bad + 1) / (bad + 2), (found_good + 1) / (truly_good + 2)
    better = specificity + sensitivity - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.clip((good / count + specificity - 1) / better, 0, 1)
    return np.where(count == 0, np.nan, np.where(better > 0, shares, np.inf))


def _counts(grade: Grade, people: Mapping[Key, Letter]) -> bool:
    return grade.letter is not None and key(grade.answer) in people


def _good(letter: Letter | None) -> bool:
    return letter in ACCEPTABLE
