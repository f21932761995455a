"""Strengths from pairs: Bradley and Terry's model, a tie half a win each way, its intervals resampled by picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mplug_owl.eval.extra import needs
from mplug_owl.eval.resampling import UNKNOWN, Draws, Interval, percentiles

# 400 points are odds of ten to one, as in chess.
POINTS = 400.0
RESAMPLES = 1000
# Half a win each way between any two: without it a system that won every pair would be infinitely strong.
PRIOR = 0.5
TOLERANCE, LIMIT = 1e-12, 100_000
RESAMPLED_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Match:
    """Two systems' answers to one question, and which is better."""

    first: str
    second: str
    verdict: Literal["first", "second", "tie"]
    cluster: str


@dataclass(frozen=True)
class Strength:
    """A system's strength in points, 0 for the mean of all; its 95 % interval; its pairs won, lost and tied."""

    system: str
    points: float
    interval: Interval
    won: int
    lost: int
    tied: int


def strengths(matches: Sequence[Match], resamples: int | None = None) -> list[Strength]:
    """Systems by strength, the strongest first.

    R. A. Bradley and M. E. Terry, Biometrika 39 (1952): the first one wins with odds of their strengths. A tie is half a win
    each way, as in Chatbot Arena (arXiv 2403.04132), and any two have half a win each way besides. evalica fits it. Its
    `newman`, where ties have a parameter of their own, does not move where there are none, as in many a resample. Raises
    UserError without evalica.
    """
    if not matches:
        return []
    systems = list(dict.fromkeys(name for one in matches for name in (one.first, one.second)))
    kinds = list(dict.fromkeys((one.first, one.second, one.verdict) for one in matches))
    both_ways = [(*pair, verdict) for pair in combinations(systems, 2) for verdict in ("first", "second")]
    rows, prior = [*kinds, *both_ways], np.full(len(both_ways), PRIOR)
    of_kind = np.array([[kind == (one.first, one.second, one.verdict) for kind in kinds] for one in matches], dtype=float)
    points = _fit(rows, np.concatenate([of_kind.sum(0), prior]), systems, TOLERANCE)
    draws = Draws([one.cluster for one in matches], resamples or RESAMPLES)
    drawn = [_fit(rows, np.concatenate([totals, prior]), systems, RESAMPLED_TOLERANCE) for totals in draws.totals(of_kind)]
    spread = np.stack(drawn)
    made = []
    for number, system in enumerate(systems):
        interval = percentiles(spread[:, number]) if draws.count > 1 else UNKNOWN
        made.append(Strength(system, float(points[number]), interval, *_record(system, matches)))
    return sorted(made, key=lambda one: -one.points)


def _fit(
    rows: Sequence[tuple[str, str, str]], weights: NDArray[np.float64], systems: Sequence[str], tolerance: float
) -> NDArray[np.float64]:
    """The strengths in points that make these weighted results likeliest, in the order of `systems`."""
    with needs("evalica"):
        import evalica
    winners = {"first": evalica.Winner.X, "second": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    result = evalica.bradley_terry(
        [first for first, _, _ in rows],
        [second for _, second, _ in rows],
        [winners[verdict] for _, _, verdict in rows],
        weights=list(weights),
        tie_weight=0.5,
        tolerance=tolerance,
        limit=LIMIT,
    )
    logs = np.log10(result.scores.reindex(systems).to_numpy(dtype=np.float64))
    return POINTS * (logs - logs.mean())


def _record(system: str, matches: Sequence[Match]) -> tuple[int, int, int]:
    """How many pairs a system won, lost and tied."""
    mine = [(one.verdict, "first" if one.first == system else "second") for one in matches if system in (one.first, one.second)]
    tied = sum(verdict == "tie" for verdict, _ in mine)
    won = sum(verdict == side for verdict, side in mine)
    return won, len(mine) - won - tied, tied
