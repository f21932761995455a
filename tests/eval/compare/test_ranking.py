"""Bradley and Terry's model with ties as half wins: its likelihood's own optimum, found another way, and what has to follow."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mplug_owl.eval.compare.ranking import PRIOR, Match, strengths

pytest.importorskip("evalica", reason="the extra `eval` is not installed")
optimize = pytest.importorskip("scipy.optimize")

results = some.lists(
    some.tuples(some.sampled_from([*combinations("abcd", 2)]), some.sampled_from(["first", "second", "tie"])),
    min_size=8,
    max_size=60,
)


def compared(found: list[tuple[tuple[str, str], str]]) -> list[Match]:
    return [Match(*pair, verdict, str(number // 2)) for number, (pair, verdict) in enumerate(found)]


def gradient(logs: np.ndarray, systems: list[str], found: list[Match]) -> list[float]:
    """The derivative of the log likelihood by each log strength, written out: wins less expected wins. Their mean is held."""
    strength = dict(zip(systems, logs, strict=True))
    slope = dict.fromkeys(systems, float(sum(logs)))
    rows = [(one.first, one.second, {"first": 1.0, "second": 0.0, "tie": 0.5}[one.verdict], 1.0) for one in found]
    rows += [(*pair, won, PRIOR) for pair in combinations(systems, 2) for won in (0.0, 1.0)]
    for first, second, won, weight in rows:
        expected = 1 / (1 + math.exp(strength[second] - strength[first]))
        slope[first] += weight * (won - expected)
        slope[second] -= weight * (won - expected)
    return list(slope.values())


@given(results)
@settings(max_examples=25)
def test_strengths_are_where_the_likelihood_is_largest(found: list[tuple[tuple[str, str], str]]) -> None:
    matches = compared(found)
    made = {one.system: one.points for one in strengths(matches, resamples=1)}
    solved = optimize.root(gradient, np.zeros(len(made)), (list(made), matches), tol=1e-14)
    points = solved.x * 400 / math.log(10)
    assert list(made.values()) == pytest.approx(list(points - points.mean()), abs=1e-9)


def test_two_systems_are_worked_out_by_hand() -> None:
    """The odds are those of wins: 9.5 to 1.5 with half a win each way, as points of 400 for ten to one."""
    made = strengths(compared([(("a", "b"), "first")] * 9 + [(("a", "b"), "second")]), resamples=200)
    assert [one.system for one in made] == ["a", "b"]
    assert made[0].points - made[1].points == pytest.approx(400 * math.log10(9.5 / 1.5), abs=1e-9)
    assert (made[0].won, made[0].lost, made[0].tied) == (9, 1, 0)
    assert made[0].interval[0] < made[0].points < made[0].interval[1]


def test_who_wins_every_pair_is_strong_and_not_infinite() -> None:
    made = strengths(compared([(("a", "b"), "first")] * 30), resamples=200)
    assert 0 < made[0].points < 1000
    assert all(map(math.isfinite, made[0].interval))


def test_all_ties_are_equal_strengths() -> None:
    made = strengths(compared([(("a", "b"), "tie")] * 6), resamples=200)
    assert [one.points for one in made] == pytest.approx([0, 0], abs=1e-9)
    assert strengths([]) == []


def test_pairs_about_one_picture_are_drawn_together() -> None:
    """All pairs of a picture alike: forty of them about ten pictures tell less than forty about forty."""
    verdicts = ["first", "first", "second", "first", "tie", "second", "first", "first", "second", "first"]
    few = [Match("a", "b", verdict, str(number)) for number, verdict in enumerate(verdicts) for _ in range(4)]
    many = [Match("a", "b", one.verdict, str(number)) for number, one in enumerate(few)]
    (wide, _), (narrow, _) = strengths(few, 300), strengths(many, 300)
    assert wide.points == pytest.approx(narrow.points)
    assert wide.interval[1] - wide.interval[0] > 1.5 * (narrow.interval[1] - narrow.interval[0])
