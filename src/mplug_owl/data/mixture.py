"""Which samples make up a step: a pure function of sizes, weights, seed and the step's number.

Nothing is drawn while training runs, so any step can be made again at any time, by any process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mplug_owl.errors import UserError


@dataclass(frozen=True)
class SampleId:
    """One sample: which source, which time through it, which record."""

    source: int
    epoch: int
    index: int


class Mixture:
    """Sources of these `sizes`, mixed by `weights` (their sizes, where None), `batch` samples a step.

    Every source goes through a fresh permutation each epoch; the shares of a step differ from the weights by less than one
    sample, and over many steps not at all. With `apart`, the sources it marks make up the same `share` of every step together,
    to the sample, and the others the rest; weights count among sources of one kind alone.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float | None],
        batch: int,
        seed: int,
        apart: Sequence[bool] | None = None,
        share: float = 0.0,
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError(f"sources of {list(sizes)} samples: each needs one at least")
        given = [float(size) if weight is None else weight for size, weight in zip(sizes, weights, strict=True)]
        if min(given) <= 0:
            raise UserError(f"weights {given}: each must be above 0")
        self.sizes, self.batch, self.seed = tuple(sizes), batch, seed
        self._kinds = [(np.arange(len(given)), batch)] if apart is None else _kinds(np.array(apart), batch, share)
        self.due = np.zeros(len(given))  # samples of each source a step, on average
        for kind, samples in self._kinds:
            self.due[kind] = np.array(given)[kind] / np.array(given)[kind].sum() * samples
        self._used = [np.zeros(len(sizes), dtype=np.int64)]

    def step(self, number: int) -> list[SampleId]:
        """The samples of a step, in the order in which they are learned from."""
        first, last = self._used_before(number), self._used_before(number + 1)
        chosen = [
            self._sample(source, int(position))
            for source in range(len(self.sizes))
            for position in range(first[source], last[source])
        ]
        order = np.random.default_rng([self.seed, 1, number]).permutation(len(chosen))
        return [chosen[i] for i in order]

    def _used_before(self, number: int) -> np.ndarray:
        """How many samples of each source the steps before this one take: the whole part of its share, the rest to whichever
        source of its kind is the most overdue.
        """
        whole = np.floor(self.due).astype(np.int64)
        while len(self._used) <= number:
            used = self._used[-1] + whole
            due = self.due * len(self._used)
            for kind, samples in self._kinds:
                for _ in range(samples - whole[kind].sum()):
                    used[kind[np.argmax((due - used)[kind])]] += 1
            self._used.append(used)
        return self._used[number]

    def _sample(self, source: int, position: int) -> SampleId:
        epoch, index = divmod(position, self.sizes[source])
        return SampleId(source, epoch, int(_permutation(self.sizes[source], self.seed, source, epoch)[index]))


def _kinds(apart: np.ndarray, batch: int, share: float) -> list[tuple[np.ndarray, int]]:
    """The sources marked and the others, each with its samples a step."""
    marked = round(share * batch)
    if not 0 < marked < batch or apart.all() or not apart.any():
        raise UserError(
            f"{marked} of {batch} samples a step set apart, {apart.sum()} of {len(apart)} sources: each kind needs some"
        )
    return [(np.flatnonzero(apart), marked), (np.flatnonzero(~apart), batch - marked)]


@lru_cache(maxsize=16)
def _permutation(size: int, seed: int, source: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, source, epoch]).permutation(size)
