"""Agreement between people, and with themselves: krippendorff's own package, and cases worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.eval.compare import rater_agreement
from mplug_owl.eval.compare.rater_agreement import between_raters, ordinal_alpha
from tests.eval.letters import grades_of

pytest.importorskip("evalica", reason="the extra `eval` is not installed")


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each resample is a call of evalica."""
    monkeypatch.setattr(rater_agreement, "RESAMPLES", 200)


levels = some.lists(
    some.lists(some.sampled_from([0.0, 1.0, 2.0, 3.0, np.nan]), min_size=3, max_size=3), min_size=4, max_size=30
).map(lambda rows: np.array(rows).T)


@given(levels)
def test_alpha_is_that_of_krippendorffs_package(found: np.ndarray) -> None:
    krippendorff = pytest.importorskip("krippendorff")
    paired = found[:, (~np.isnan(found)).sum(0) > 1]
    alpha = ordinal_alpha(found)
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        assert alpha is None
    else:
        assert alpha == pytest.approx(krippendorff.alpha(found, level_of_measurement="ordinal"), abs=1e-9)


def test_people_who_agree_and_people_who_do_not() -> None:
    same = [*grades_of({"owl": "ABCDABCD"}, "anna"), *grades_of({"owl": "ABCDABCD"}, "ben")]
    made = between_raters(same)
    assert made is not None
    assert (made.answers, made.same, made.alpha, made.interval) == (8, 1.0, 1.0, (1.0, 1.0))
    opposite = between_raters([*grades_of({"owl": "ABCDABCD"}, "anna"), *grades_of({"owl": "DCBADCBA"}, "ben")])
    assert opposite is not None
    assert opposite.alpha is not None
    assert opposite.alpha < 0
    assert opposite.same == 0


def test_what_one_person_graded_says_nothing_of_two() -> None:
    assert between_raters(grades_of({"owl": "ABCD"}, "anna")) is None
    three = [*grades_of({"owl": "ABCD"}, "anna"), *grades_of({"owl": "AB"}, "ben"), *grades_of({"owl": "AC"}, "cleo")]
    made = between_raters(three)
    assert made is not None
    assert made.answers == 2
    assert made.same == pytest.approx(4 / 6)  # AAA agrees in three pairs of three, BBC in one of three


def test_a_judge_is_no_person_and_a_second_look_is_no_second_person() -> None:
    people = [*grades_of({"owl": "ABCD"}, "anna"), *grades_of({"owl": "ABCC"}, "ben")]
    more = [*grades_of({"owl": "DDDD"}, "gpt", "judge"), *(replace(grade, letter="D", round=1) for grade in people[:4])]
    assert between_raters(people) == between_raters([*people, *more])


def test_test_retest_is_each_person_with_themselves() -> None:
    anna, ben = grades_of({"owl": "ABCDABCD"}, "anna"), grades_of({"owl": "DDDDDDDD"}, "ben")
    assert rater_agreement.test_retest([*anna, *ben]) is None
    again = [replace(grade, round=1) for grade in anna[:4]]
    made = rater_agreement.test_retest([*anna, *ben, *again])
    assert made is not None
    assert (made.answers, made.same, made.alpha) == (4, 1.0, 1.0)
    changed = [replace(again[0], letter="B"), *again[1:]]
    made = rater_agreement.test_retest([*anna, *ben, *changed])
    assert made is not None
    assert made.same == 0.75


def test_the_interval_holds_alpha() -> None:
    random = np.random.default_rng(2)
    anna = "".join(random.choice(list("ABCD"), 40))
    ben = "".join(letter if random.random() < 0.7 else random.choice(list("ABCD")) for letter in anna)
    made = between_raters([*grades_of({"owl": anna}, "anna"), *grades_of({"owl": ben}, "ben")])
    assert made is not None
    assert made.alpha is not None
    assert made.interval[0] < made.alpha < made.interval[1]
    assert 0.05 < made.interval[1] - made.interval[0] < 0.8
