"""kill -9 at five random instants, three of them while saving: the run ends as if nothing had happened, bit for bit."""

from pathlib import Path

from benchmarks import kills

# benchmarks/kills.py does so with fifty, by hand.
KILLS, STEPS = 5, 24


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    done, runs, identical = kills.measure(KILLS, workers=0, seed=0, folder=tmp_path, steps=STEPS)
    assert done == KILLS
    assert identical == runs >= 1
