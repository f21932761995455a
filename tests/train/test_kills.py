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


def test_what_stopped_after_its_last_kill_is_finished_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr(kills, "start", lambda data, out, trial: started.append(out) or [])
    monkeypatch.setattr(kills, "finish", lambda processes: None)
    monkeypatch.setattr(kills, "same", lambda one, other: "weights differ")
    (tmp_path / "whole.done").touch()
    (tmp_path / "run1").mkdir()
    kills.Counted(tmp_path / "counted.json", kills.Trial(), 0).write(5, 1, 1)
    assert kills.measure(5, kills.Trial(), 0, tmp_path) == (5, 2, 1)
    assert started == [tmp_path / "run1"]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (2, 2), (4, 4)])
def test_so_does_one_that_reads_in_blocks(workers: int, processes: int, tmp_path: Path) -> None:
    done, runs, identical = kills.measure(3, kills.Trial(workers, processes, "blocks", 12), seed=1, folder=tmp_path)
    assert done == 3
    assert identical == runs >= 1
