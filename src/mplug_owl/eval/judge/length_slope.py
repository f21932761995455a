"""What length alone adds to a grade: a slope within questions, between the systems that answered them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mplug_owl.eval.grade import LETTERS, Grade, Letter
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.judge.agreement import Numbers

# A determinant below this share of its parts is the rounding of zero.
ROUNDING = 1e-9


@dataclass(frozen=True)
class LengthSlope:
    """Levels of grade for each doubling of an answer's length.

    Args:
        grades: Those it is from.
        values: Their squares and products [N, 5], whose sums `slope` reads.
        beside_people: Whether people's grades are held equal.
    """

    grades: tuple[Grade, ...]
    values: Numbers
    beside_people: bool

    @property
    def value(self) -> float:
        """The slope over all of them."""
        return float(self.slope(self.values.sum(0)))

    @staticmethod
    def slope(sums: Numbers) -> Numbers:
        """Least squares: grade on length, and on people's grade where that varies.

        NaN where lengths do not vary, or where they go up and down with people's grades alone: nothing tells the two apart.
        """
        length, across, people, grade_length, grade_people = (sums[..., number] for number in range(5))
        apart = length * people - across**2
        with np.errstate(divide="ignore", invalid="ignore"):
            joint = (grade_length * people - grade_people * across) / np.where(
                apart > ROUNDING * length * people, apart, np.nan
            )
            alone = grade_length / length
        return np.where(people > 0, joint, alone)


def length_slope(judged: Sequence[Grade], people: Mapping[Key, Letter], enough: int) -> LengthSlope | None:
    """The slope beside people's grades where they graded answers about `enough` pictures, else without them.

    Longer answers may be better ones. So what people gave is held equal, where it is known.
    """
    lettered = [grade for grade in judged if grade.letter is not None]
    known = _compared([grade for grade in lettered if key(grade.answer) in people])
    if len({grade.answer.question.cluster for grade in known}) >= enough:
        return _slope(known, [float(-LETTERS.index(people[key(grade.answer)])) for grade in known], beside_people=True)
    compared = _compared(lettered)
    return _slope(compared, [0.0] * len(compared), beside_people=False)


def _compared(grades: Sequence[Grade]) -> list[Grade]:
    """Those whose question several of them are about, question by question."""
    questions: dict[tuple[str, str, str], list[Grade]] = {}
    for grade in grades:
        condition = grade.answer.condition
        questions.setdefault((grade.answer.question.id, condition.split, condition.mode), []).append(grade)
    return [grade for here in questions.values() if len(here) > 1 for grade in here]


def _slope(grades: Sequence[Grade], people: Sequence[float], beside_people: bool) -> LengthSlope | None:
    if not grades:
        return None
    lengths = _centred(grades, [math.log2(1 + len(grade.answer.text)) for grade in grades])
    levels = _centred(grades, [float(-LETTERS.index(grade.letter)) for grade in grades if grade.letter is not None])
    given = _centred(grades, people)
    values = np.stack([lengths**2, lengths * given, given**2, levels * lengths, levels * given], axis=1)
    return LengthSlope(tuple(grades), values, beside_people) if values[:, 0].sum() > 0 else None


def _centred(grades: Sequence[Grade], values: Sequence[float]) -> Numbers:
    """Values less the mean of their question."""
    questions = [(grade.answer.question.id, grade.answer.condition) for grade in grades]
    numbers = {question: number for number, question in enumerate(dict.fromkeys(questions))}
    where = np.array([numbers[question] for question in questions])
    array = np.array(values)
    return array - (np.bincount(where, array) / np.bincount(where))[where]
