"""A judge's errors are taken out of the shares that it finds, and the interval knows how little is known of them."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, Letter, lettered
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.judge.corrected import corrected, corrected_shares, judge_errors
from tests.eval.quiz import CONDITIONS, question


def exam(
    truth: float, specificity: float, sensitivity: float, count: int, calibrated: int, seed: int
) -> tuple[list[Grade], dict[Key, Letter]]:
    """A judge with these errors, and people who graded some of the answers."""
    draw = random.Random(seed)
    judged, people = [], {}
    for number in range(count):
        good = draw.random() < truth
        seems_good = draw.random() < (sensitivity if good else 1 - specificity)
        answer = Answer(question(number), CONDITIONS[0], ("words",), "one")
        judged.append(lettered(answer, "B" if seems_good else "C", "stub", "judge"))
        if number < calibrated:
            people[key(answer)] = "A" if good else "D"
    return judged, people


@given(st.fractions(0, 1), st.fractions(Fraction(6, 10), 1), st.fractions(Fraction(6, 10), 1))
def test_the_formula_undoes_what_the_errors_did(truth: Fraction, specificity: Fraction, sensitivity: Fraction) -> None:
    judged = truth * sensitivity + (1 - truth) * (1 - specificity)
    assert corrected(float(judged), float(specificity), float(sensitivity)) == pytest.approx(float(truth), abs=1e-12)


def test_a_share_stays_one_and_a_judge_of_chance_has_none() -> None:
    assert corrected(0.05, 0.8, 0.8) == 0.0
    assert corrected(0.95, 0.8, 0.8) == 1.0
    assert corrected(0.5, 0.5, 0.5) is None
    assert corrected(0.5, 0.2, 0.3) is None


def test_errors_are_counted_against_people() -> None:
    judged, people = exam(0.5, 0.7, 0.9, 4000, 4000, seed=0)
    errors = judge_errors(judged, people)
    assert errors is not None
    assert (errors.specificity, errors.sensitivity) == pytest.approx((0.7, 0.9), abs=0.02)
    assert errors.bad + errors.good == 4000


def test_without_people_there_is_no_correction() -> None:
    judged, people = exam(0.5, 0.8, 0.8, 50, 0, seed=0)
    assert corrected_shares(judged, people) == []
    only_good = {key(judged[0].answer): "A"}
    assert corrected_shares(judged, only_good) == []


def test_unscored_answers_are_in_no_share() -> None:
    judged, people = exam(0.5, 0.9, 0.9, 60, 60, seed=0)
    unscored = lettered(Answer(question(99), CONDITIONS[0], ("words",), "one"), None, "stub", "judge")
    assert corrected_shares([*judged, unscored], people) == corrected_shares(judged, people)


def test_each_condition_has_a_share_of_its_own() -> None:
    """With the picture and without are one split: their answers are not thrown together."""
    judged, people = [], {}
    for number in range(40):
        for condition, letter in zip(CONDITIONS[:2], ("A", "D"), strict=True):
            answer = Answer(question(number), condition, ("words",), "one")
            judged.append(lettered(answer, letter, "stub", "judge"))
            people[key(answer)] = letter
    assert [(one.mode, one.judged, one.value) for one in corrected_shares(judged, people)] == [
        ("picture", 1, 1),
        ("none", 0, 0),
    ]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """95 % of the time by its name. Of 100 exams a true 95 % falls below 89 in one of a hundred."""
    covered, raw_is_off = 0, 0
    for seed in range(100):
        judged, people = exam(0.4, 0.7, 0.9, 100, 60, seed)
        (found,) = corrected_shares(judged, people)
        assert found.interval is not None
        covered += found.interval[0] <= 0.4 <= found.interval[1]
        raw_is_off += found.judged > 0.45
    assert covered >= 89
    assert raw_is_off > 75  # 0.54 is expected: uncorrected, it would be wrong nearly always


def test_fewer_grades_of_people_make_it_wider() -> None:
    widths = []
    for calibrated in (30, 300):
        (found,) = corrected_shares(*exam(0.5, 0.8, 0.8, 300, calibrated, seed=3))
        assert found.interval is not None
        widths.append(found.interval[1] - found.interval[0])
    assert widths[0] > 1.3 * widths[1]
