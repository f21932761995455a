"""Wilson's interval against its definition, statsmodels and figures worked out by hand; tables of shares and means."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.resampling import mean_interval
from mplug_owl.eval.statistics import Mean, Share, figures, wilson
from tests.eval.quiz import CONDITIONS, question

counts = some.integers(1, 3000).flatmap(lambda total: some.tuples(some.integers(0, total), some.just(total)))


@given(counts, some.floats(0.5, 0.999))
def test_its_ends_are_the_shares_that_a_test_only_just_does_not_reject(counted: tuple[int, int], confidence: float) -> None:
    correct, total = counted
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for end in wilson(correct, total, confidence):
        assert abs(correct / total - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total), abs=1e-9)


@given(counts)
def test_it_holds_the_share_and_stays_between_0_and_1(counted: tuple[int, int]) -> None:
    correct, total = counted
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    assert low < high


@given(counts)
def test_wrong_answers_have_the_mirrored_interval(counted: tuple[int, int]) -> None:
    correct, total = counted
    low, high = wilson(correct, total)
    assert wilson(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(counts)
def test_more_questions_make_it_narrower_and_more_confidence_wider(counted: tuple[int, int]) -> None:
    correct, total = counted

    def width(ends: tuple[float, float]) -> float:
        return ends[1] - ends[0]

    assert width(wilson(4 * correct, 4 * total)) < width(wilson(correct, total)) < width(wilson(correct, total, 0.99))


def test_figures_worked_out_by_hand() -> None:
    # With z = 1.96: (p + z2/2n) / (1 + z2/n) -+ z / (1 + z2/n) sqrt(p (1 - p) / n + z2 / 4n2).
    assert wilson(180, 200) == pytest.approx((0.8506, 0.9343), abs=5e-5)
    assert wilson(0, 200) == pytest.approx((0.0, 0.01885), abs=5e-6)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(3, 2), (-1, 2), (0, 0)])
def test_what_is_no_share_is_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= correct <= total"):
        wilson(correct, total)


@given(counts, some.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_statsmodels_has_the_same(counted: tuple[int, int], confidence: float) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    theirs = proportion.proportion_confint(*counted, alpha=1 - confidence, method="wilson")
    assert wilson(*counted, confidence) == pytest.approx(theirs, abs=1e-9)


def graded(scores: list[float | None], grader: str = "anls", model: str = "", image: str = "", **more: object) -> list[Grade]:
    """Grades of one condition's answers, two questions a picture where `image` is given."""
    found = []
    for number, score in enumerate(scores):
        asked = replace(question(number), image=f"{image}{number // 2}" if image else "")
        found.append(Grade(Answer(asked, CONDITIONS[0], ("x",), model), score, grader=grader, **more))
    return found


def test_scores_between_right_and_wrong_have_a_mean_and_an_interval_resampled() -> None:
    scores = [0.25, 0.5, 1.0, 0.75, 0.0, 0.5]
    (made,) = figures(graded(scores))
    (overall,) = made.rows[-1][1]
    assert overall == Mean(0.5, mean_interval(scores, list("abcdef")), 6)
    assert made.measure == "mean score times 100"
    assert str(overall).startswith("50.0 [")


def test_where_all_scores_are_alike_no_interval_is_known() -> None:
    (made,) = figures(graded([0.5] * 6))
    assert str(made.rows[-1][1][0]) == "50.0"


def test_graders_and_models_have_columns_of_their_own() -> None:
    (made,) = figures(graded([1, 0, 1], "exact") + graded([0.5, 0.5, 1.0]))
    assert made.columns == ("exact", "anls")
    assert [type(one) for one in made.rows[-1][1]] == [Share, Mean]
    assert made.measure == "percent correct or mean score times 100"
    (made,) = figures([*graded([1, 0], model="one"), *graded([1, 1], model="two"), *graded([0.5, 1], "vqa", "two")])
    assert made.columns == ("one, anls", "two, anls", "two, vqa")


def test_what_has_no_grade_is_counted_apart_and_is_never_wrong() -> None:
    (made,) = figures(graded([1, None, 0, 1]))
    assert made.rows[-1][1] == (Share(2, 3),)
    assert made.unscored == (1,)
    (none,) = figures(graded([None, None]))
    assert str(none.rows[-1][1][0]) == "–"


def test_grades_that_audit_a_judge_do_not_count() -> None:
    audits = graded([0, 0], shown="removed") + graded([0, 0], round=1)
    assert figures(graded([1, 1]) + audits) == figures(graded([1, 1]))


def test_a_share_of_questions_about_few_pictures_is_as_wide_as_the_pictures_make_it() -> None:
    """Both questions of a picture right or wrong together: twenty answers tell no more than ten."""
    scores: list[float | None] = [1, 1, 0, 0] * 5
    (alone,), (shared,) = figures(graded(scores)), figures(graded(scores, image="p"))
    (narrow,), (wide,) = alone.rows[-1][1], shared.rows[-1][1]
    assert narrow.interval == wilson(10, 20)
    assert wide.interval[1] - wide.interval[0] > 1.2 * (narrow.interval[1] - narrow.interval[0])
    (all_right,) = figures(graded([1] * 8, image="p"))
    assert all_right.rows[-1][1][0].interval == wilson(8, 8)
