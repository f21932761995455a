"""Coefficients of agreement against evalica, krippendorff and statsmodels, and intervals that cover what they say."""

import krippendorff
import numpy as np
import pandas as pd
import pytest
from evalica import alpha
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from mplug_owl.eval.judge.agreement import ordinal_alpha, resampled, weighted_kappa
from mplug_owl.eval.resampling import percentiles

LEVELS = 4
GRADES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda pairs: len({one for pair in pairs for one in pair}) > 1
)


def table(pairs: list[tuple[int, int]]) -> np.ndarray:
    counts = np.zeros((LEVELS, LEVELS))
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    return counts


@given(GRADES)
@settings(max_examples=40)
def test_ordinal_alpha_is_evalicas_and_krippendorffs(pairs: list[tuple[int, int]]) -> None:
    ratings = np.array(pairs).T
    found = ordinal_alpha(table(pairs))
    assert found == pytest.approx(alpha(pd.DataFrame(ratings), distance="ordinal").alpha, abs=1e-9)
    assert found == pytest.approx(krippendorff.alpha(ratings, level_of_measurement="ordinal"), abs=1e-9)


@given(GRADES)
@settings(max_examples=40)
def test_weighted_kappa_is_statsmodels(pairs: list[tuple[int, int]]) -> None:
    with np.errstate(invalid="ignore"):  # of its standard error, where one grader has one level alone
        expected = cohens_kappa(table(pairs), weights=np.arange(LEVELS) ** 2, wt="toeplitz").kappa
    assert weighted_kappa(table(pairs)) == pytest.approx(expected, abs=1e-9)


def test_one_call_computes_many_tables() -> None:
    tables = np.random.default_rng(0).integers(0, 9, (5, LEVELS, LEVELS)).astype(float)
    for coefficient in (ordinal_alpha, weighted_kappa):
        assert coefficient(tables) == pytest.approx([float(coefficient(one)) for one in tables], abs=0)


def test_where_nothing_varies_there_is_no_coefficient() -> None:
    same = np.zeros((LEVELS, LEVELS))
    same[1, 1] = 9
    assert np.isnan(ordinal_alpha(same))
    assert np.isnan(weighted_kappa(same))


def test_pictures_are_resampled_and_not_answers() -> None:
    """Six answers about each picture that agree with one another: as many pictures alone give the same interval."""
    draw = np.random.default_rng(1)
    values = (draw.random(40) < 0.5).astype(float)
    clusters = [str(number) for number in range(40)]

    def ends(clusters: list[str], values: np.ndarray) -> tuple[float, float]:
        ones = np.stack([values, np.ones_like(values)], axis=1)
        return percentiles(resampled(clusters, ones, lambda sums: sums[:, 0] / sums[:, 1]))

    assert ends([*clusters] * 6, np.tile(values, 6)) == pytest.approx(ends(clusters, values))
