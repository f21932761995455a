"""How many samples of each source came before a step: what going through all the steps would give, at any step at once."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_owl.data import apportion
from mplug_owl.data.apportion import STRIDE, Apportionment


def one_by_one(due: np.ndarray, samples: int, steps: int) -> np.ndarray:
    """The counts before each step, as version 0.1 found them: the most overdue first, every step after the other."""
    whole, used = np.floor(due).astype(np.int64), [np.zeros(len(due), np.int64)]
    for done in range(1, steps + 1):
        now = used[-1] + whole
        for _ in range(samples - whole.sum()):
            now[np.argmax(due * done - now)] += 1
        used.append(now)
    return np.array(used)


weights = st.one_of(st.floats(0.001, 1000), st.integers(1, 9).map(float), st.sampled_from([0.1, 0.5, 1 / 3, 2.0]))


def due_of(weights: list[float], samples: int) -> np.ndarray:
    return np.array(weights) / np.array(weights).sum() * samples


@given(st.lists(weights, min_size=1, max_size=2), st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_one_source_and_two_are_as_they_were(weights: list[float], samples: int) -> None:
    """Ties too: weights of 1 and 9 are at one in every tenth step."""
    due, steps = due_of(weights, samples), 1500
    before = Apportionment(due, samples).before
    assert np.array_equal([before(step) for step in range(steps + 1)], one_by_one(due, samples, steps))


@given(st.lists(weights, min_size=3, max_size=7), st.integers(1, 64), st.data())
@settings(max_examples=12, deadline=None)
def test_many_sources_are_as_they_were_wherever_one_begins(weights: list[float], samples: int, data: st.DataObject) -> None:
    due, steps = due_of(weights, samples), 4 * STRIDE
    expected, begun = one_by_one(due, samples, steps), Apportionment(due, samples)
    for step in data.draw(st.lists(st.integers(0, steps), min_size=3, max_size=6)):
        assert np.array_equal(Apportionment(due, samples).before(step), expected[step])
        assert np.array_equal(begun.before(step), expected[step])


@pytest.mark.parametrize("share", [0.5, 1 / 3, 0.1, 0.01])
def test_a_share_beside_whole_ones_is_as_it_was(share: float) -> None:
    """Dues that are whole numbers never get what is left, wherever they stand."""
    due = np.array([2.0, share, 5.0, 1 - share])
    before = Apportionment(due, 8).before
    assert np.array_equal([before(step) for step in range(3001)], one_by_one(due, 8, 3000))


@pytest.mark.parametrize("due", [[3.0, 2.9999999999999996], [2.0000000000000004, 4.0], [1.0000000000000002, 5.000000000000001]])
def test_rounding_is_no_share(due: list[float]) -> None:
    before = Apportionment(np.array(due), 6).before
    assert np.array_equal([before(step) for step in range(1001)], one_by_one(np.array(due), 6, 1000))


@given(st.lists(weights, min_size=3, max_size=9), st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_how_far_a_source_can_be_from_its_due(weights: list[float], samples: int) -> None:
    """The bounds from which all counts that can have been are listed: one that is left out could be the true one."""
    due, sources = due_of(weights, samples), len(weights)
    overdue = due * np.arange(601)[:, None] - one_by_one(due, samples, 600)
    assert overdue.min() >= 1 / sources - 1 - 1e-6
    assert overdue.max() <= sum(1 / each for each in range(2, sources + 1)) + 1e-6


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_rows_of_a_sum_are_all_there(options: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(options)))
    expected = [row for row in product(*(range(below) for below in options)) if sum(row) == total]
    assert apportion._sums(options, total).tolist() == [list(row) for row in expected]


def test_where_several_counts_stay_possible_none_is_taken() -> None:
    """The third source gets a sample in a million steps; whether it had one cannot always be seen from the last 256."""
    due = np.array([0.4, 0.599999, 0.000001])
    assert Apportionment(due, 1)._only_one(400_000, 32) is None
    assert Apportionment(due, 1)._only_one(500_000, 32) == (499_748, [199_899, 299_848, 1])
    assert Apportionment(due, 1).before(400_000).tolist() == [160_000, 240_000, 0]


@pytest.fixture
def guessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if so many counts were possible that they cannot be listed."""
    monkeypatch.setattr(apportion, "MOST", 0)


@pytest.mark.usefixtures("guessing")
def test_no_count_depends_on_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess that is wrong everywhere costs time and changes nothing."""
    due, steps = due_of([5, 3, 2, 1], 32), 5 * STRIDE
    real = Apportionment._guess
    monkeypatch.setattr(Apportionment, "_guess", lambda self, at: real(self, at)[:, ::-1].copy())
    assert np.array_equal(Apportionment(due, 32).before(steps + 7), one_by_one(due, 32, steps + 7)[-1])


@given(st.lists(st.floats(0.05, 20), min_size=1, max_size=2), st.integers(1, 64), st.integers(0, 10**7))
def test_two_sources_stay_within_a_sample_of_their_due(weights: list[float], samples: int, step: int) -> None:
    due = due_of(weights, samples)
    before, after = (Apportionment(due, samples).before(number) for number in (step, step + 1))
    assert (before <= after).all()
    assert (after - before).sum() == samples
    assert abs(before - due * step).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("weights", [[1.0], [3.0, 1.7], [1e6, 5e5, 3e3], [10.0, 8.0, 5.0, 3.0, 2.0, 1.3]])
def test_step_500_000_is_found_at_once(weights: list[float]) -> None:
    took = []
    for _ in range(3):
        began = time.process_time()
        Apportionment(due_of(weights, 4096), 4096).before(500_000)
        took.append(time.process_time() - began)
    assert min(took) < 0.05  # 0.002 s on the Xeon; going through the steps takes 5


@pytest.mark.usefixtures("guessing")
def test_the_guess_pays() -> None:
    """Of a usual mixture nearly every stretch is gone through beside the others."""
    alone, real = [], Apportionment._through

    class Counting(Apportionment):
        def _through(self, used: list[int], first: int, last: int) -> list[int]:
            alone.append(last - first)
            return real(self, used, first, last)

    Counting(due_of([3, 2, 1.7], 32), 32).before(200 * apportion.STRIDE)
    assert sum(alone) < 20 * STRIDE
