"""Wilson's interval against its definition, its source's symmetry and figures worked out by hand."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.eval.statistics import wilson

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
