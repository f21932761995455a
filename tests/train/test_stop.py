"""Being asked to stop: by one process or by all of a job at once, in time or not, and what a second signal does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mplug_owl.train import checkpoint, metrics, stop

ROOT = Path(__file__).parents[2]

TWICE = """
import os, runpy, signal, sys, time
Stop = runpy.run_path(sys.argv[1])["Stop"]
with Stop() as stop:
    os.kill(os.getpid(), signal.SIGUSR1)
    print("asked", stop.asked, flush=True)
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    time.sleep(60)
"""

ENDLESS = """
import sys
from pathlib import Path
from mplug_owl.train.run import start
from mplug_owl.train.stop import Stopped
from tests.school import lesson, lessons, quietly
sources, recipe = lessons(Path(sys.argv[1]) / "data"), lesson(steps=10_000, workers=2)
try:
    quietly(recipe, start(recipe, sources), sources, Path(sys.argv[1]) / "run")
except Stopped as told:
    print(told)
    sys.exit(75)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_second_signal_leaves_at_once(name: str) -> None:
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", TWICE, stop.__file__, name], capture_output=True, text=True, timeout=50)
    assert done.stdout == "asked True\n"
    assert done.returncode == 128 + getattr(signal, name)
    assert time.monotonic() - begun < 30


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
    assert said.startswith(f"stopped behind step {found.step} of 10000")
