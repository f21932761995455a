"""In which order the records of a source come: fully at random, or block by block with locality.

An order is a pure function from (epoch, position) to a record's index. No permutation of a large source is held, and so
any step's samples are known at once.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt
from typing import Protocol

import numpy as np

# The permutations of sources up to this size are numpy's, held in memory, 2 MiB each and drawn in 5 ms. Those of larger ones
# are computed index by index. Each run keeps the limit that it began with: the order depends on it.
IN_MEMORY = 2**18
# The same limit for blocks, which are put in order as a whole in any case.
HELD = 2**20
# Four rounds of a Feistel network are as good as random in theory (Luby and Rackoff, 1988), its round functions being
# perfect. Ours are quick ones.
ROUNDS = 8
# Places of a blocks source that are read from at once. A power of two, so that 2, 4, 8, ... 64 processes share them evenly.
LANES = 64
# Neighbours in a lane that are drawn in random order. With 64 lanes it is a shuffle buffer of 16,384 samples.
WINDOW = 256


class Order(Protocol):
    """Every index of a source once an epoch."""

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The indices [N] at these positions [N] of an epoch."""
        ...


class RandomOrder:
    """A fresh permutation of all `size` records each epoch, held in memory where they are `in_memory` at most."""

    def __init__(self, size: int, seed: int, source: int, in_memory: int = IN_MEMORY) -> None:
        self.size, self.seed, self.source, self.in_memory = size, seed, source, in_memory

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The indices [N] at these positions [N] of an epoch."""
        return permuted(positions, self.size, (self.seed, 0, self.source, epoch), self.in_memory)


class BlocksOrder:
    """Blocks in random order, each read from its front to its end, many at once: for shards that are far away.

    Every epoch permutes the blocks and lays them end to end. That row is cut into `LANES` stretches of the same length, the
    lanes. Consecutive positions take turns among the lanes. Within a lane, records are drawn at random from windows of
    `WINDOW` neighbours, one window after the other. The windows of two lanes begin at different times, so that what has to be
    fetched comes evenly.

    Args:
        blocks: how many records each block has, in the order of the source.
    """

    def __init__(self, blocks: Sequence[int] | np.ndarray, seed: int, source: int) -> None:
        self.blocks, self.seed, self.source = np.asarray(blocks, dtype=np.int64), seed, source
        self.size = int(self.blocks.sum())
        self._begins = self.blocks.cumsum() - self.blocks

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The indices [N] at these positions [N] of an epoch."""
        lanes, offsets = positions % LANES, positions // LANES
        whole, longer = divmod(self.size, LANES)
        begins, lengths = lanes * whole + np.minimum(lanes, longer), whole + (lanes < longer)
        row = begins + self._within_windows(epoch, lanes, offsets, lengths)
        order = permuted(np.arange(len(self.blocks)), len(self.blocks), (self.seed, 6, self.source, epoch))
        ends = self.blocks[order].cumsum()
        nth = np.searchsorted(ends, row, side="right")
        blocks = order[nth]
        return self._begins[blocks] + row - (ends[nth] - self.blocks[blocks])

    def _within_windows(self, epoch: int, lanes: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Other offsets of the same windows."""
        earlier = lanes * (WINDOW // LANES)  # so much of a lane's first window is not there
        windows = (offsets + earlier) // WINDOW
        first = np.maximum(windows * WINDOW - earlier, 0)
        sizes = np.minimum((windows + 1) * WINDOW - earlier, lengths) - first
        _, example, members, counts = np.unique(
            windows * LANES + lanes, return_index=True, return_inverse=True, return_counts=True
        )
        drawn = offsets - first
        for one, those in zip(example, np.split(members.argsort(kind="stable"), counts.cumsum()[:-1]), strict=True):
            key = (self.seed, 7, self.source, epoch, int(lanes[one]), int(windows[one]))
            drawn[those] = _window(int(sizes[one]), key)[drawn[those]]
        return first + drawn


def permuted(indices: np.ndarray, size: int, key: tuple[int, ...], in_memory: int = HELD) -> np.ndarray:
    """Where the permutation of range(size) that has this key puts these indices [N].

    Up to a size of `in_memory` it is numpy's, above it `permuted_by_key`.
    """
    return _held(size, key)[indices] if size <= in_memory else permuted_by_key(indices, size, key)


def permuted_by_key(indices: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """The same by computing, without any table: what an index becomes costs the same for every size.

    A Feistel network over pairs, for a domain of any size (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    A result outside the domain is put in again until it falls inside: cycle walking. That happens to one in sqrt(size).
    """
    across = isqrt(size - 1) + 1
    down = -(-size // across)
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)
    found = _feistel(indices.astype(np.uint64), across, down, keys)
    while (outside := found >= size).any():
        found[outside] = _feistel(found[outside], across, down, keys)
    return found.astype(np.int64)


def _feistel(numbers: np.ndarray, across: int, down: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of range(across * down): each half of a number in turn is moved by a hash of the other half."""
    left, right = numbers % np.uint64(across), numbers // np.uint64(across)
    for turn, key in enumerate(keys):
        if turn % 2:
            right = (right + _hash(left, key)) % np.uint64(down)
        else:
            left = (left + _hash(right, key)) % np.uint64(across)
    return right * np.uint64(across) + left


def _hash(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """SplitMix64's finisher (Steele, Lea and Flood, 2014) on numbers plus a key. One bit less, so that a sum has room."""
    mixed = numbers + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)


@lru_cache(maxsize=16)
def _held(size: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(size)


# Those in use, and those of the steps that come next.
@lru_cache(maxsize=8 * LANES)
def _window(size: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(size)
