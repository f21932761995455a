"""How far two graders agree beyond chance, for many resamples of the pictures at once."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mplug_owl.eval.resampling import Draws

Numbers = NDArray[np.float64]
# From sums to figures, for many resamples at once.
Statistic = Callable[[Numbers], Numbers]
# Enough for two digits, and eight lines of a passport take a moment.
RESAMPLES = 2000


def ordinal_alpha(tables: Numbers) -> Numbers:
    """Krippendorff's alpha with ordinal distances, for two graders.

    Args:
        tables: [..., K, K], how often the first gave one level and the second the other.

    Returns:
        [...], 1 for full agreement and 0 for chance; NaN where all grades are of one level. evalica's and krippendorff's
        values, which tests compare; one call for a thousand resampled tables is why it is computed here.
    """
    seen = tables + np.swapaxes(tables, -1, -2)  # each pair of grades counts in both orders
    counts = seen.sum(-1)
    before = np.cumsum(counts, axis=-1)
    middle = before - counts / 2  # the middle rank of a level, since grades of one level share theirs
    distance = (middle[..., :, None] - middle[..., None, :]) ** 2
    total = counts.sum(-1)
    observed = (seen * distance).sum((-1, -2))
    expected = (counts[..., :, None] * counts[..., None, :] * distance).sum((-1, -2))
    return _divided(expected - (total - 1) * observed, expected)


def weighted_kappa(tables: Numbers) -> Numbers:
    """Cohen's kappa with quadratic weights, for tables [..., K, K]; NaN where both give one level alone.

    statsmodels' value, which tests compare.
    """
    levels = np.arange(tables.shape[-1])
    weights = (levels[:, None] - levels[None, :]) ** 2.0
    rows, columns, total = tables.sum(-1), tables.sum(-2), tables.sum((-1, -2))
    expected = (rows[..., :, None] * columns[..., None, :] * weights).sum((-1, -2))
    return _divided(expected - total * (tables * weights).sum((-1, -2)), expected)


def resampled(clusters: Sequence[str], values: Numbers, statistic: Statistic) -> Numbers:
    """A statistic of the sums over resampled clusters, once for each resample. The same resamples in every call.

    Args:
        clusters: Which cluster, such as a picture, each row of `values` belongs to.
        values: [N, ...].
        statistic: From sums [R, ...] of R resamples to R numbers.
    """
    draws = Draws(clusters, RESAMPLES)
    sums = np.zeros((draws.count, values[0].size))
    np.add.at(sums, draws.cluster_of, values.reshape(len(values), -1))
    return statistic((_counts(draws.count) @ sums).reshape(-1, *values.shape[1:]))


@lru_cache(maxsize=4)
def _counts(clusters: int) -> Numbers:
    """How often each cluster is in each resample: every line of a passport needs the same."""
    drawn = Draws([str(number) for number in range(clusters)], RESAMPLES)
    return np.concatenate(list(drawn.counts())).astype(np.float64)


def _divided(numerator: Numbers, denominator: Numbers) -> Numbers:
    """NaN where nothing varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
