"""Which samples make up a step: a pure function of sizes, weights, seed and the step's number.

Nothing is drawn while training runs, so any step can be made again at any time, by any process.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mplug_owl.data.apportion import Apportionment
from mplug_owl.data.order import IN_MEMORY, BlocksOrder, Order, RandomOrder
from mplug_owl.errors import UserError


@dataclass(frozen=True)
class SampleId:
    """One sample: which source, which time through it, which record."""

    source: int
    epoch: int
    index: int


class Mixture:
    """Sources of these `sizes`, mixed by `weights` (their sizes, where None), `batch` samples a step.

    Every source goes through a fresh permutation each epoch; over many steps its share differs from its weight not at all, and
    over few by a sample or so. With `apart`, the sources it marks make up the same `share` of every step together, to the
    sample, and the others the rest; weights count among sources of one kind alone.

    `blocks` are the sizes of the blocks of those sources that are to be read block by block; None for a source in random order.
    The random order of sources of `in_memory` records at most is held there, and that of larger ones is computed.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float | None],
        batch: int,
        seed: int,
        apart: Sequence[bool] | None = None,
        share: float = 0.0,
        blocks: Sequence[np.ndarray | None] | None = None,
        in_memory: int = IN_MEMORY,
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise UserError(f"sources of {list(sizes)} samples: each needs one at least")
        given = [float(size) if weight is None else weight for size, weight in zip(sizes, weights, strict=True)]
        if min(given) <= 0:
            raise UserError(f"weights {given}: each must be above 0")
        self.sizes, self.batch, self.seed = tuple(sizes), batch, seed
        kinds = [(np.arange(len(given)), batch)] if apart is None else _kinds(np.array(apart), batch, share)
        self.due = np.zeros(len(given))  # samples of each source a step, on average
        for kind, samples in kinds:
            self.due[kind] = np.array(given)[kind] / np.array(given)[kind].sum() * samples
        self.in_blocks = tuple(of is not None for of in blocks or [None] * len(sizes))
        self._parts = [(kind, Apportionment(self.due[kind], samples)) for kind, samples in kinds]
        self._orders: list[Order] = [
            RandomOrder(size, seed, source, in_memory) if of is None else BlocksOrder(of, seed, source)
            for source, (size, of) in enumerate(zip(sizes, blocks or [None] * len(sizes), strict=True))
        ]

    def step(self, number: int) -> list[SampleId]:
        """The samples of a step, in the order in which they are learned from."""
        return self.share(number, 0, 1)

    def share(self, number: int, rank: int, world: int) -> list[SampleId]:
        """What one of `world` processes learns in a step, in the order of the step.

        Of a source in blocks, the sample at a position goes to process `position % world`: where that divides the lanes, no two
        processes read in the same stretch. All others take turns, the process with the fewest samples first.
        """
        rows = self._rows(number)
        owners = np.where(rows[:, 3] < 0, -1, rows[:, 3] % world)
        fewest = [(int(count), process) for process, count in enumerate(np.bincount(owners[owners >= 0], minlength=world))]
        heapq.heapify(fewest)
        for row in np.flatnonzero(owners < 0):
            count, owners[row] = fewest[0]
            heapq.heapreplace(fewest, (count + 1, fewest[0][1]))
        return [SampleId(*row) for row in rows[owners == rank, :3].tolist()]

    def _rows(self, number: int) -> np.ndarray:
        """A row for each sample of a step: source, epoch, index, and its position in the epoch or -1 [samples, 4]."""
        first, last = self._used_before(number), self._used_before(number + 1)
        rows = []
        for source, (size, order) in enumerate(zip(self.sizes, self._orders, strict=True)):
            epochs, positions = np.divmod(np.arange(first[source], last[source]), size)
            indices = [order.at(epoch, positions[epochs == epoch]) for epoch in np.unique(epochs).tolist()]
            kept = positions if self.in_blocks[source] else np.full_like(positions, -1)
            rows.append(np.stack([np.full_like(epochs, source), epochs, np.concatenate([epochs[:0], *indices]), kept], axis=1))
        gathered = np.concatenate(rows)
        return gathered[np.random.default_rng([self.seed, 1, number]).permutation(len(gathered))]

    def _used_before(self, number: int) -> np.ndarray:
        """How many samples of each source the steps before this one take."""
        used = np.zeros(len(self.sizes), dtype=np.int64)
        for kind, part in self._parts:
            used[kind] = part.before(number)
        return used


def _kinds(apart: np.ndarray, batch: int, share: float) -> list[tuple[np.ndarray, int]]:
    """The sources marked and the others, each with its samples a step."""
    marked = round(share * batch)
    if not 0 < marked < batch or apart.all() or not apart.any():
        raise UserError(
            f"{marked} of {batch} samples a step set apart, {apart.sum()} of {len(apart)} sources: each kind needs some"
        )
    return [(np.flatnonzero(apart), marked), (np.flatnonzero(~apart), batch - marked)]
