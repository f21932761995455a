"""Being asked to stop: by one process or by all of a job at once, in time or not, and what a second signal does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mplug_owl.train import checkpoint, metrics, stop
from tests.school import initial_model, lesson, lessons, quietly

ROOT = Path(__file__).parents[2]

TWICE = """
import os, runpy, signal, sys, time
Stop = runpy.run_path(sys.argv[1])["Stop"]
with Stop() as stop:
    os.kill(os.getpid(), signal.SIGUSR1)
    print("asked", stop.asked, flush=True)
    stop._heard_at -= float(sys.argv[3])
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    time.sleep(0.2)
    print("goes on")
"""

ENDLESS = """
import sys
from pathlib import Path
from mplug_owl.errors import Interrupted
from tests.school import initial_model, lesson, lessons, quietly
sources, recipe = lessons(Path(sys.argv[1]) / "data"), lesson(steps=10_000, workers=2)
try:
    quietly(recipe, initial_model(recipe, sources), sources, Path(sys.argv[1]) / "run")
except Interrupted as told:
    print(told)
    sys.exit(75)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_second_signal_leaves_at_once(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", TWICE, stop.__file__, name, "6"], capture_output=True, text=True, timeout=50)
    assert done.stdout == "asked True\n"
    assert done.returncode == 128 + getattr(signal, name)


def test_a_signal_that_torchrun_passes_on_once_more_is_the_same_one() -> None:
    """SLURM signals every process, and torchrun those that it started: the checkpoint is written all the same."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE, stop.__file__, "SIGTERM", "0"], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.returncode) == ("asked True\ngoes on\n", 0)


def test_it_tells_once_when_stopping_would_take_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 20.0, 41.0, 70.0])
    monkeypatch.setattr(stop.time, "monotonic", lambda: next(clock))
    asked = stop.Stop(grace_seconds=30.0)
    assert asked.step_ended(50.0) == []  # a first step has nothing to be measured from
    assert asked.step_ended(9.0) == []
    (told,) = asked.step_ended(9.5)
    assert told.startswith("a step takes 21.0 s and writing a checkpoint 9.5 s: killed 30 s after it is asked to stop")
    assert asked.step_ended(9.5) == []


def test_a_run_tells_when_a_checkpoint_takes_longer_than_grace(tmp_path: Path) -> None:
    recipe, sources, told = lesson(steps=4, save_every=1, grace_seconds=1e-6), lessons(tmp_path / "data"), []
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", note=told.append)
    assert len(told) == 1
    assert "say so by grace_seconds=SECONDS" in told[0]


def test_a_whole_job_may_be_asked_its_data_workers_too(tmp_path: Path) -> None:
    """SLURM signals every process of a step. A worker that obeyed would take the step that is to end down with it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-W", "ignore", "-c", ENDLESS, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        while not metrics.read(tmp_path / "run" / "metrics.jsonl") and job.poll() is None:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGTERM)
        said, problems = job.communicate(timeout=60)
    assert (job.returncode, problems) == (75, "")
    found, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert said.startswith(f"stopped after step {found.step} of 10000")
