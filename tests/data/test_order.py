"""The order of a source's records: every one once an epoch, whichever order; in blocks, read from front to back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_owl.data import order
from mplug_owl.data.order import HELD, IN_MEMORY, LANES, WINDOW, BlocksOrder, RandomOrder, permuted, permuted_by_key


@given(st.integers(1, 5000), st.integers(0, 2**40))
def test_a_permutation_by_key_has_every_index_once(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permuted_by_key(np.arange(size), size, (key,))), np.arange(size))


@pytest.mark.parametrize("size", [2**10 - 1, 2**10, 2**10 + 1, 31 * 32, 10_007])
def test_so_it_has_around_squares_and_powers(size: int) -> None:
    assert np.array_equal(np.sort(permuted_by_key(np.arange(size), size, (7, 1))), np.arange(size))


def test_one_index_is_what_it_is_among_others() -> None:
    size = 414_080_000  # LAION-400M
    some = np.array([0, 1, 2, 17, size - 1])
    together = permuted_by_key(some, size, (0, 0, 0, 0))
    assert [int(permuted_by_key(some[i : i + 1], size, (0, 0, 0, 0))[0]) for i in range(len(some))] == together.tolist()
    assert ((together >= 0) & (together < size)).all()


def test_a_permutation_by_key_is_the_same_in_every_version() -> None:
    """Runs that were begun are resumed by later versions of this package and of numpy."""
    assert permuted_by_key(np.arange(5), 414_080_000, (3, 0, 1, 2)).tolist() == [
        65612621,
        334259110,
        301302156,
        8687558,
        135668006,
    ]
    assert BlocksOrder([500, 300, 700], 1, 2).at(3, np.array([0, 1, 64, 1499])).tolist() == [819, 824, 801, 1470]


def chi_square(counts: np.ndarray, expected: float) -> float:
    """How many standard deviations a chi-square of equal cells is above what chance gives."""
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("size", [2**20 + 7, 3_000_000, 414_080_000])
def test_a_permutation_by_key_shows_no_pattern(size: int) -> None:
    """Neighbours, epochs and seeds: where one goes says nothing about where the other does. The bound is one in 10,000."""
    at, cells = np.arange(200_000), 20
    found = permuted_by_key(at, size, (0, 0, 0, 0))
    others = {"itself": at * size // len(at), "its neighbour": np.roll(found, 1), "at a distance": np.roll(found, 1024)}
    others["the next epoch"] = permuted_by_key(at, size, (0, 0, 0, 1))
    others["another seed"] = permuted_by_key(at, size, (1, 0, 0, 0))
    assert abs(chi_square(np.bincount(found * 100 // size, minlength=100), len(at) / 100)) < 4
    for name, other in others.items():
        both = np.bincount((found * cells // size) * cells + other * cells // size, minlength=cells**2)
        assert abs(chi_square(both, len(at) / cells**2)) < 4, name
    for bit in range(8):  # low bits too: the mean of so many coins
        assert abs(((found >> bit) & 1).mean() - 0.5) < 4 * 0.5 / len(at) ** 0.5


def test_small_sources_keep_the_permutation_that_they_had() -> None:
    at = np.arange(1000)
    assert np.array_equal(RandomOrder(1000, 3, 1).at(2, at), np.random.default_rng([3, 0, 1, 2]).permutation(1000))
    assert np.array_equal(permuted(at[:5], HELD + 1, (3,)), permuted_by_key(at[:5], HELD + 1, (3,)))


def test_no_permutation_of_a_large_source_is_held() -> None:
    order._held.cache_clear()
    for size in (400_000_000, IN_MEMORY + 1):
        RandomOrder(size, 0, 0).at(7, np.arange(4096))
    assert order._held.cache_info().currsize == 0


def test_a_run_begun_when_more_was_held_keeps_its_order() -> None:
    at, size = np.arange(1000), IN_MEMORY + 1
    before = RandomOrder(size, 3, 1, in_memory=2**20).at(2, at)
    assert np.array_equal(before, np.random.default_rng([3, 0, 1, 2]).permutation(size)[:1000])
    assert not np.array_equal(before, RandomOrder(size, 3, 1).at(2, at))


blocks = st.lists(st.integers(0, 900), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0)


@given(blocks, st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_blocks_have_every_index_once_an_epoch(sizes: list[int], seed: int, epoch: int) -> None:
    found = BlocksOrder(sizes, seed, 0).at(epoch, np.arange(sum(sizes)))
    assert np.array_equal(np.sort(found), np.arange(sum(sizes)))


@given(blocks, st.data())
@settings(max_examples=20, deadline=None)
def test_a_position_is_what_it_is_among_others(sizes: list[int], data: st.DataObject) -> None:
    whole = BlocksOrder(sizes, 0, 0).at(1, np.arange(sum(sizes)))
    some = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=9)))
    assert np.array_equal(BlocksOrder(sizes, 0, 0).at(1, some), whole[some])


SHARDS = [1000] * 200


def test_every_lane_goes_through_its_shards_from_front_to_back() -> None:
    """Of each lane a few neighbours are in use at once, and a shard that was left is not come back to."""
    found = BlocksOrder(SHARDS, 5, 0).at(0, np.arange(sum(SHARDS)))
    for lane in (0, 1, LANES - 1):
        mine = found[lane::LANES]
        shards = mine // 1000
        entered = [int(shards[0])] + [int(now) for before, now in pairwise(shards) if now != before]
        assert len(set(entered)) <= len(mine) // 1000 + 2
        for shard in set(entered):
            at = np.flatnonzero(shards == shard)
            assert at.max() - at.min() < len(at) + 2 * WINDOW  # one visit, blurred at its ends by the windows there
            inside = mine[at] % 1000
            assert abs(inside - np.sort(inside)).max() < WINDOW


def test_consecutive_positions_come_from_as_many_shards_as_there_are_lanes() -> None:
    found = BlocksOrder(SHARDS, 5, 0).at(0, np.arange(sum(SHARDS)))
    for first in (0, 6_400, 128_000):
        assert len(np.unique(found[first : first + LANES] // 1000)) >= LANES - 4  # two lanes may meet in one


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    at = np.arange(640)
    first = BlocksOrder(SHARDS, 0, 0).at(0, at)
    for other in (
        BlocksOrder(SHARDS, 0, 0).at(1, at),
        BlocksOrder(SHARDS, 1, 0).at(0, at),
        BlocksOrder(SHARDS, 0, 1).at(0, at),
    ):
        assert (first == other).mean() < 0.05


def test_lanes_enter_their_windows_at_different_times() -> None:
    """Otherwise all of them would want new bytes in the same step, and none in those between."""
    found = BlocksOrder([10_000] * 64, 0, 0).at(0, np.arange(LANES * 2048))
    begun = np.zeros(2048)  # how far each lane has read, step by step
    for lane in range(LANES):
        mine = found[lane::LANES] - found[lane::LANES].min()
        reached = np.maximum.accumulate(mine // WINDOW)
        begun[1:] += np.diff(reached) > 0
    assert begun.reshape(-1, 64).sum(1).max() < 3 * begun.sum() / 32
