"""Intervals resampled by picture: questions about one picture share its difficulty, so pictures are drawn and not questions.

draws = Draws([grade.answer.question.cluster for grade in grades])
low, high = percentiles(draws.means(scores))
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SEED = 10_000, 0
# How many pictures are drawn in all: large exams are resampled less often, and a chunk of draws fits into memory.
MOST_DRAWN, CHUNK = 200_000_000, 8_000_000
# A report draws from as many pictures again and again: small draws are kept.
KEPT = 1_100_000

Interval = tuple[float, float]
UNKNOWN: Interval = (math.nan, math.nan)


class Draws:
    """Clusters drawn with replacement, again and again. Whatever is computed from one of these meets the same pictures.

    The cluster bootstrap of A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8: whole
    clusters are drawn, and a mean is that of all rows in them, so that a picture with more questions weighs more.

    Args:
        clusters: The cluster of each row, such as its picture's name.
        resamples: How often; fewer where there are very many clusters.
        seed: Another one draws others.
    """

    def __init__(self, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED) -> None:
        index: dict[str, int] = {}
        self.cluster_of = np.array([index.setdefault(cluster, len(index)) for cluster in clusters], dtype=np.int64)
        self.count, self.seed = len(index), seed
        self.resamples = min(resamples, max(MOST_DRAWN // max(self.count, 1), 200))

    def counts(self) -> Iterator[NDArray[np.int64]]:
        """How often each cluster is in each resample, some resamples at a time: [resamples, clusters]."""
        if self.count * self.resamples <= KEPT:
            yield _drawn(self.count, self.resamples, self.seed)
            return
        random = np.random.default_rng(self.seed)
        step = max(CHUNK // max(self.count, 1), 1)
        for start in range(0, self.resamples, step):
            size = min(step, self.resamples - start)
            yield random.multinomial(self.count, np.full(self.count, 1 / self.count), size=size)

    def totals(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of each column in each resample. Columns are [rows, columns], sums are [resamples, columns]."""
        sums = np.zeros((self.count, columns.shape[1]))
        np.add.at(sums, self.cluster_of, columns)
        return np.concatenate([counts @ sums for counts in self.counts()])

    def means(self, scores: Sequence[float]) -> NDArray[np.float64]:
        """The mean of the scores in each resample. A score that is not a number is left out."""
        values = np.asarray(scores, dtype=np.float64)
        known = ~np.isnan(values)
        totals = self.totals(np.stack([np.where(known, values, 0.0), known], axis=1))
        with np.errstate(invalid="ignore"):
            return totals[:, 0] / totals[:, 1]

    def mean_interval(self, scores: Sequence[float], confidence: float = 0.95) -> Interval:
        """The interval of a mean. Unknown with fewer than two clusters, or where all scores, and so resamples, are alike."""
        values = np.asarray(scores, dtype=np.float64)
        known = ~np.isnan(values)
        if min(len(np.unique(self.cluster_of[known])), len(np.unique(values[known]))) < 2:
            return UNKNOWN
        return percentiles(self.means(scores), confidence)


@lru_cache(maxsize=8)
def _drawn(count: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """All draws at once. Nobody may write into them."""
    made = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    made.flags.writeable = False
    return made


def percentiles(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """The interval between the percentiles of resampled values; those that are not a number are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return UNKNOWN
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_interval(scores: Sequence[float], clusters: Sequence[str], confidence: float = 0.95) -> Interval:
    """The interval of a mean, resampled by cluster; unknown where `Draws.mean_interval` says so."""
    return Draws(clusters).mean_interval(scores, confidence)
