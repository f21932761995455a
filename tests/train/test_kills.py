"""kill -9 at five random instants, three of them while saving: the run ends as if nothing had happened, bit for bit."""

from pathlib import Path

import pytest

from benchmarks import kills

# benchmarks/kills.py does so with fifty, by hand.
KILLS, STEPS = 5, 24


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    done, runs, identical = kills.measure(KILLS, kills.Trial(steps=STEPS), seed=0, folder=tmp_path)
    assert done == KILLS
    assert identical == runs >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (2, 2), (4, 4)])
def test_so_does_one_that_reads_in_blocks(workers: int, processes: int, tmp_path: Path) -> None:
    done, runs, identical = kills.measure(3, kills.Trial(workers, processes, "blocks", 12), seed=1, folder=tmp_path)
    assert done == 3
    assert identical == runs >= 1
