"""Paired differences against scipy, against counting by hand, and by what they have to hold."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mplug_owl import UserError
from mplug_owl.eval.compare.paired import holm, mcnemar, paired_differences
from tests.eval.letters import MULTI, grades_of

pytest.importorskip("statsmodels", reason="the extra `eval` is not installed")


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """statsmodels collects garbage at every call of Holm's, which takes half a second beside torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)
        yield


@given(some.integers(0, 400), some.integers(0, 400))
def test_mcnemars_exact_test_is_scipys_binomial_test(one: int, other: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, abs=1e-9)


@given(some.lists(some.floats(0, 1), max_size=12))
def test_holm_is_what_he_wrote(p_values: list[float]) -> None:
    """The k-th smallest of m times m - k + 1, never less than those before it and at most 1."""
    expected, worst = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min((len(p_values) - rank) * p_values[number], 1.0))
        expected[number] = worst
    assert holm(p_values) == pytest.approx(expected, abs=1e-9)


def test_counted_by_hand() -> None:
    (made,) = paired_differences(grades_of({"owl": "AABCDA-B", "llava": "BACADAB-"}))
    assert (made.first, made.second, made.total) == ("owl", "llava", 6)
    assert (made.first_alone, made.second_alone, made.better, made.worse) == (1, 1, 2, 1)
    assert made.p_value == 1.0
    assert made.difference == 0.0
    assert made.net == pytest.approx(1 / 6)
    assert made.discordant == pytest.approx(2 / 6)


letters = some.lists(some.tuples(some.sampled_from("ABCD"), some.sampled_from("ABCD")), min_size=4, max_size=24)


@given(letters)
@settings(max_examples=6)
def test_the_other_way_round_all_signs_change(pairs: list[tuple[str, str]]) -> None:
    ours, theirs = ("".join(side) for side in zip(*pairs, strict=True))
    (one,) = paired_differences(grades_of({"a": ours, "b": theirs}))
    (other,) = paired_differences(grades_of({"b": theirs, "a": ours}))
    assert (one.p_value, one.net, one.difference) == pytest.approx((other.p_value, -other.net, -other.difference), abs=1e-12)
    assert one.net_interval == pytest.approx((-other.net_interval[1], -other.net_interval[0]), abs=1e-12, nan_ok=True)
    if len({(a > b) - (a < b) for a, b in pairs}) == 1:
        assert np.isnan(one.net_interval).all()
    else:
        assert one.net_interval[0] - 1e-12 <= one.net <= one.net_interval[1] + 1e-12 or one.total < 8


def test_where_two_never_differ_no_interval_is_known() -> None:
    """Resamples are all alike, which does not make the difference certain."""
    (made,) = paired_differences(grades_of({"a": "AACAACAACA", "b": "BBDBBDBBDB"}))
    assert made.difference == 0.0
    assert np.isnan(made.difference_interval).all()
    assert np.isnan(made.net_interval).all()


def test_the_interval_is_that_of_whole_pictures() -> None:
    """Written out: pictures are drawn, with all their questions, the same ones for both systems."""
    ours, theirs = "AABBCDABCDAACB", "ABBACCDDABAABD"
    (made,) = paired_differences(grades_of({"a": ours, "b": theirs}))
    signs = [(theirs[at] > ours[at]) - (theirs[at] < ours[at]) for at in range(14)]
    pictures = [signs[at : at + 2] for at in range(0, 14, 2)]
    random = np.random.default_rng(0)
    drawn = random.multinomial(7, np.full(7, 1 / 7), size=10_000)
    nets = [sum(sum(picture) * times for picture, times in zip(pictures, row, strict=True)) / 14 for row in drawn]
    assert made.net_interval == pytest.approx(tuple(np.quantile(nets, [0.025, 0.975])), abs=1e-9)


def test_every_two_systems_are_compared_and_halves_are_not_confused() -> None:
    grades = [*grades_of({"a": "AB", "b": "BB", "c": "DD"}), *grades_of({"a": "DD", "b": "AA"}, condition=MULTI)]
    made = paired_differences(grades)
    assert [(one.first, one.second, one.total) for one in made] == [("a", "b", 4), ("a", "c", 2), ("b", "c", 2)]
    assert (made[0].better, made[0].worse) == (1, 2)
    assert all(one.adjusted >= one.p_value for one in made)


def test_two_equal_systems_are_rarely_found_different() -> None:
    """Of 300 exams in which both systems draw from the same letters, at most one in twenty says p < 0.05."""
    random, found = np.random.default_rng(3), 0
    for _ in range(300):
        alone = random.binomial(50, 0.2, size=2)
        found += mcnemar(*map(int, alone)) < 0.05
    assert found <= 15


def test_a_package_that_is_missing_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.stats.contingency_tables", None)
    with pytest.raises(UserError, match=r"pip install 'mplug-owl\[eval\]'"):
        mcnemar(1, 2)
