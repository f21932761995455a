"""The cluster bootstrap against its definition written out, against scipy's, and by what it has to hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mplug_owl.eval.resampling import UNKNOWN, Draws, mean_interval, percentiles

rows = some.lists(some.tuples(some.sampled_from("abcdefg"), some.floats(-2, 3)), min_size=2, max_size=40)


@given(rows)
@settings(max_examples=40)
def test_each_resample_is_the_mean_of_all_rows_of_the_clusters_drawn(found: list[tuple[str, float]]) -> None:
    clusters, scores = [cluster for cluster, _ in found], [score for _, score in found]
    draws = Draws(clusters, resamples=200)
    names = list(dict.fromkeys(clusters))
    expected = []
    for counts in np.concatenate(list(draws.counts())):
        drawn = [
            score
            for name, times in zip(names, counts, strict=True)
            for row, score in found
            if row == name
            for _ in range(times)
        ]
        expected.append(math.fsum(drawn) / len(drawn))
    np.testing.assert_allclose(draws.means(scores), expected, rtol=0, atol=1e-9)


@given(some.lists(some.floats(0, 1), min_size=3, max_size=60))
@settings(max_examples=40)
def test_percentiles_are_scipys(values: list[float]) -> None:
    mquantiles = pytest.importorskip("scipy.stats.mstats").mquantiles
    expected = mquantiles(values, [0.025, 0.975], alphap=1, betap=1)
    assert percentiles(np.array(values)) == pytest.approx(expected, abs=1e-9)


def test_the_interval_is_scipys_but_for_chance() -> None:
    """The same bootstrap by scipy, of clusters' sums and sizes, with its own draws."""
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    random = np.random.default_rng(4)
    clusters = [str(cluster) for cluster in random.integers(0, 40, 120)]
    scores = random.random(120) + np.array([int(cluster) % 3 for cluster in clusters])
    names = sorted(set(clusters))
    sums = [sum(score for score, cluster in zip(scores, clusters, strict=True) if cluster == name) for name in names]
    theirs = bootstrap(
        (sums, [clusters.count(name) for name in names]),
        lambda total, size, axis: total.sum(axis) / size.sum(axis),
        n_resamples=20_000,
        paired=True,
        vectorized=True,
        method="percentile",
        random_state=1,
    ).confidence_interval
    low, high = mean_interval(list(scores), clusters)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * (theirs.high - theirs.low))


def test_rows_that_share_a_picture_count_once() -> None:
    """Every row four times over tells nothing new: resampled by picture the interval stays, by row it would halve."""
    random = np.random.default_rng(1)
    scores = list(random.random(50))
    names = [str(number) for number in range(50)]
    assert mean_interval(scores * 4, names * 4) == pytest.approx(mean_interval(scores, names), abs=1e-12)
    low, high = mean_interval(scores, names)
    narrow = mean_interval(scores * 4, [str(number) for number in range(200)])
    assert narrow[1] - narrow[0] == pytest.approx((high - low) / 2, rel=0.05)


def test_it_covers_what_is_true_as_often_as_it_says() -> None:
    """Of 200 samples of 50 pictures with two questions each, nine in ten hold the true mean, and not all."""
    random, held = np.random.default_rng(7), 0
    for _ in range(200):
        difficulty = random.random(50)
        scores = (random.random((50, 2)) < difficulty[:, None]).astype(float)
        low, high = percentiles(Draws([str(number) for number in range(50) for _ in range(2)], 500).means(list(scores.ravel())))
        held += low <= 0.5 <= high
    assert 180 <= held <= 199


def test_many_clusters_are_drawn_less_often_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Draws([str(number) for number in range(100_000)]).resamples == 2000
    draws = Draws([str(number) for number in range(100)], resamples=200)
    (whole,) = draws.counts()
    monkeypatch.setattr("mplug_owl.eval.resampling.CHUNK", 300)
    monkeypatch.setattr("mplug_owl.eval.resampling.KEPT", 0)
    assert (np.concatenate(list(draws.counts())) == whole).all()
    assert [len(chunk) for chunk in draws.counts()] == [3] * 66 + [2]
    assert len(draws.means([0.5] * 100)) == 200


def test_one_picture_has_no_interval() -> None:
    assert mean_interval([0.0, 1.0], ["a", "a"]) == pytest.approx(UNKNOWN, nan_ok=True)


def test_the_seed_decides() -> None:
    names, scores = [str(number) for number in range(9)], [number / 9 for number in range(9)]
    assert (Draws(names).means(scores) == Draws(names).means(scores)).all()
    assert (Draws(names).means(scores) != Draws(names, seed=1).means(scores)).any()


def test_scores_that_are_missing_are_left_out() -> None:
    draws = Draws(["a", "b", "c"], resamples=300)
    assert np.nanmax(draws.means([1.0, math.nan, 1.0])) == 1.0
    assert percentiles(draws.means([math.nan] * 3)) == pytest.approx(UNKNOWN, nan_ok=True)


def test_what_has_no_score_makes_no_interval_where_all_others_are_alike() -> None:
    clusters = ["a", "b", "c"]
    assert mean_interval([1.0, 1.0, math.nan], clusters) is UNKNOWN
    assert mean_interval([1.0, 0.0, math.nan], ["a", "a", "b"]) is UNKNOWN
    assert mean_interval([1.0, 0.0, math.nan], clusters) == (0.0, 1.0)
