"""The time left is that of the steps to come at the pace of the latest."""

import pytest

from mplug_owl.train.time_left import LATEST, TimeLeft


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is; tests set it."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_it_is_known_after_the_first_step(clock: list[float]) -> None:
    left = TimeLeft(0, 11)
    clock[0] += 3
    assert left.after(1) == pytest.approx(30)


def test_a_slow_beginning_is_forgotten(clock: list[float]) -> None:
    left = TimeLeft(0, 100)
    clock[0] += 60
    left.after(1)
    clock[0] += 18
    assert left.after(10) == pytest.approx(180)


def test_a_new_pace_is_learned(clock: list[float]) -> None:
    left = TimeLeft(0, 1000)
    for pace in (1, 5):
        for _ in range(LATEST):
            clock[0] += 10 * pace
            last = left.after(10 + (left.reports[-1][0]))
    assert last == pytest.approx(5 * (1000 - 20 * LATEST))


def test_a_resumed_run_counts_its_own_steps(clock: list[float]) -> None:
    left = TimeLeft(50, 100)
    clock[0] += 2
    assert left.after(51) == pytest.approx(2 * 49)
    clock[0] += 4
    assert left.after(55) == pytest.approx(45)


def test_nothing_is_left_after_the_last_step(clock: list[float]) -> None:
    left = TimeLeft(0, 2)
    clock[0] += 1
    left.after(1)
    clock[0] += 1
    assert left.after(2) == 0
