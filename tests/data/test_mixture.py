"""Which samples make up a step: decided by its number alone, every record once an epoch, sources by their weights."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.mixture import Mixture

sources = st.lists(st.tuples(st.integers(1, 50), st.floats(0.05, 20)), min_size=1, max_size=6)


def test_any_step_can_be_made_at_any_time() -> None:
    ahead = [Mixture([7, 5], [None, None], 4, seed=3).step(number) for number in range(20)]
    mixture = Mixture([7, 5], [None, None], 4, seed=3)
    assert [mixture.step(number) for number in reversed(range(20))] == ahead[::-1]
    assert Mixture([7, 5], [None, None], 4, seed=4).step(0) != ahead[0]


def test_a_step_is_the_same_in_every_version() -> None:
    """Runs that were begun are resumed by later versions of this package and of numpy."""
    mixture = Mixture([5, 3], [None, None], 4, seed=1)
    steps = {number: [(one.source, one.epoch, one.index) for one in mixture.step(number)] for number in (0, 1, 7)}
    assert steps == {
        0: [(0, 0, 1), (0, 0, 4), (0, 0, 0), (1, 0, 2)],
        1: [(0, 0, 3), (1, 0, 1), (1, 0, 0), (0, 0, 2)],
        7: [(1, 3, 0), (0, 3, 1), (1, 3, 1), (0, 3, 3)],
    }


def test_every_source_has_its_weight() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Mixture([3, 4], [None], 4, seed=0)


def batches(mixture: Mixture, source: int, steps: range) -> set[frozenset[int]]:
    """Which records of a source are learned together, whatever their order within a step."""
    return {frozenset(one.index for one in mixture.step(number) if one.source == source) for number in steps}


def test_every_record_comes_once_an_epoch_each_time_beside_others() -> None:
    mixture = Mixture([12], [None], 4, seed=0)
    epochs = [batches(mixture, 0, range(3 * epoch, 3 * epoch + 3)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(index for batch in epoch for index in batch) == list(range(12))
    assert len({frozenset(epoch) for epoch in epochs}) == 3


def test_two_sources_of_a_size_are_not_gone_through_alike() -> None:
    mixture = Mixture([12, 12], [None, None], 8, seed=0)
    assert batches(mixture, 0, range(3)) != batches(mixture, 1, range(3))


def test_a_step_mixes_its_sources() -> None:
    order = [sample.source for sample in Mixture([50, 50], [None, None], 16, seed=0).step(0)]
    assert order not in (sorted(order), sorted(order, reverse=True))
    again = [sample.source for sample in Mixture([50, 50], [None, None], 16, seed=0).step(1)]
    assert order != again


def test_an_epoch_may_end_within_a_step() -> None:
    mixture = Mixture([5], [None], 3, seed=0)
    seen = Counter((sample.epoch, sample.index) for number in range(5) for sample in mixture.step(number))
    assert seen == Counter((epoch, index) for epoch in range(3) for index in range(5))


def test_sizes_weigh_where_nothing_else_is_said() -> None:
    mixture = Mixture([30, 10], [None, None], 4, seed=0)
    for number in range(10):
        assert Counter(sample.source for sample in mixture.step(number)) == {0: 3, 1: 1}


@given(sources, st.integers(1, 9), st.integers(1, 40))
def test_no_source_is_ever_far_off_its_share(sources: list, batch: int, steps: int) -> None:
    """Less than a sample, of up to four; the worst of 400 random mixtures of more was 1.11."""
    sizes, weights = zip(*sources, strict=True)
    mixture, used = Mixture(sizes, weights, batch, seed=0), Counter()
    for number in range(steps):
        chosen = mixture.step(number)
        assert len(chosen) == batch
        used.update(sample.source for sample in chosen)
        for source, weight in enumerate(weights):
            off = abs(used[source] - weight / sum(weights) * batch * (number + 1))
            assert off < (1 + 1e-6 if len(sources) <= 4 else 1.25)


@given(sources, st.integers(2, 9), st.integers(1, 40), st.floats(0.1, 0.9), st.data())
def test_what_is_set_apart_has_its_share_of_every_step_to_the_sample(
    sources: list, batch: int, steps: int, share: float, data: st.DataObject
) -> None:
    sources = [*sources, (5, 1.0)]
    apart = [True, *data.draw(st.lists(st.booleans(), min_size=len(sources) - 2, max_size=len(sources) - 2)), False]
    sizes, weights = zip(*sources, strict=True)
    marked = min(max(round(share * batch), 1), batch - 1)
    mixture, used = Mixture(sizes, weights, batch, seed=0, apart=apart, share=marked / batch), Counter()
    together = {
        kind: sum(weight for weight, mark in zip(weights, apart, strict=True) if mark == kind) for kind in (True, False)
    }
    for number in range(steps):
        chosen = mixture.step(number)
        assert len(chosen) == batch
        assert sum(apart[sample.source] for sample in chosen) == marked
        used.update(sample.source for sample in chosen)
        for source, weight in enumerate(weights):
            of = marked if apart[source] else batch - marked
            assert abs(used[source] - weight / together[apart[source]] * of * (number + 1)) < 1.25


def test_a_late_step_of_a_large_run_is_found_at_once() -> None:
    """A run that resumes at step 40,000 with 4,096 samples a step should not wait for minutes."""
    mixture = Mixture([1_000_000, 500_000, 3_000], [None, 2e5, 5e4], 4096, seed=0)
    began = time.process_time()
    assert len(mixture.step(40_000)) == 4096
    assert time.process_time() - began < 5


def test_a_kind_that_is_missing_is_told() -> None:
    with pytest.raises(ValueError, match="2 of 4 samples a step set apart, 2 of 2 sources: each kind needs some"):
        Mixture([3, 4], [None, None], 4, 0, apart=[True, True], share=0.5)
    with pytest.raises(ValueError, match="0 of 4 samples a step set apart, 1 of 2 sources: each kind needs some"):
        Mixture([3, 4], [None, None], 4, 0, apart=[True, False], share=0.1)


@pytest.mark.parametrize(
    ("sizes", "weights", "told"),
    [
        ([], [], "each needs one at least"),
        ([3, 0], [None, None], r"sources of \[3, 0\] samples"),
        ([3, 4], [1.0, 0.0], r"weights \[1.0, 0.0\]: each must be above 0"),
    ],
)
def test_what_cannot_be_mixed_is_told(sizes: list, weights: list, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Mixture(sizes, weights, 4, 0)


def shares(mixture: Mixture, number: int, world: int) -> list[list]:
    return [mixture.share(number, rank, world) for rank in range(world)]


@given(sources, st.integers(1, 17), st.integers(1, 5), st.integers(0, 20), st.data())
def test_processes_share_a_step_evenly_and_each_sample_once(
    sources: list, batch: int, world: int, number: int, data: st.DataObject
) -> None:
    sizes, weights = zip(*sources, strict=True)
    blocks = [np.array([size - size // 3, size // 3]) if data.draw(st.booleans()) else None for size in sizes]
    mixture = Mixture(sizes, weights, batch, seed=0, blocks=blocks)
    whole, parts = mixture.step(number), shares(mixture, number, world)
    assert Counter(sample for part in parts for sample in part) == Counter(whole)
    for part in parts:  # in the order of the step
        left = iter(whole)
        assert all(sample in left for sample in part)
    if not any(mixture.in_blocks):
        assert parts == [whole[rank::world] for rank in range(world)]


def test_processes_read_other_shards_of_a_source_in_blocks() -> None:
    mixture = Mixture([64_000], [None], 64, seed=0, blocks=[np.full(640, 100)])
    for world in (2, 4):
        read = [
            {sample.index // 100 for step in range(50) for sample in mixture.share(step, rank, world)} for rank in range(world)
        ]
        both = [one & other for number, one in enumerate(read) for other in read[:number]]
        assert max(len(shards) for shards in both) <= 64 // world + 1  # where one lane ends and the next begins
        assert min(len(shards) for shards in read) >= 64 // world


def test_what_is_in_random_order_goes_to_whoever_has_the_fewest() -> None:
    mixture = Mixture([640, 640], [3.0, 1.0], 16, seed=0, blocks=[np.full(64, 10), None])
    for number in range(30):
        assert [len(part) for part in shares(mixture, number, 4)] == [4, 4, 4, 4]


def test_blocks_change_the_order_and_not_the_shares() -> None:
    plain = Mixture([600, 300], [None, None], 9, seed=0)
    blocked = Mixture([600, 300], [None, None], 9, seed=0, blocks=[np.full(6, 100), None])
    assert [one for one in plain.step(3) if one.source == 1] == [one for one in blocked.step(3) if one.source == 1]
    assert [one.source for one in plain.step(3)] == [one.source for one in blocked.step(3)]
    assert plain.step(3) != blocked.step(3)


@pytest.mark.parametrize("blocks", [None, [np.full(41_408, 10_000)]])
def test_the_first_step_of_a_resumed_run_is_made_at_once(blocks: list | None) -> None:
    """Step 500,000 of LAION-400M, by process 3 of 64."""
    took = []
    for _ in range(3):
        began = time.process_time()
        Mixture([414_080_000], [None], 4096, 0, blocks=blocks).share(500_000, 3, 64)
        took.append(time.process_time() - began)
    assert min(took) < 0.25  # 0.02 s alone on the Xeon
