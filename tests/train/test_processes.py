"""Several processes learn what one learns: the same batches, the same losses, the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl.train import metrics
from tests.school import lessons

ROOT = Path(__file__).parents[2]


def run_with(processes: int, data: Path, out: Path, timeout: float = 120) -> None:
    """A run of this many processes on one machine, through torchrun as accelerate and SLURM use it."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *launch, "-m", "tests.train.worker", str(data), str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lessons(folder)
    return folder


@pytest.mark.slow
def test_one_two_and_four_processes_learn_the_same(data: Path, tmp_path: Path) -> None:
    """Pictures and text alone are mixed, so some passes leave the vision encoder without a gradient."""
    for processes in (1, 2, 4):
        run_with(processes, data, tmp_path / str(processes))
    alone = metrics.read(tmp_path / "1" / "metrics.jsonl")
    assert len(alone) == 4
    weights = load_file(tmp_path / "1" / "model" / "model.safetensors")
    for processes in (2, 4):
        together = metrics.read(tmp_path / str(processes) / "metrics.jsonl")
        for one, many in zip(alone, together, strict=True):
            assert many["loss"] == pytest.approx(one["loss"], abs=1e-5)
            assert many["learned_tokens"] == one["learned_tokens"]
            assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
        theirs = load_file(tmp_path / str(processes) / "model" / "model.safetensors")
        worst = max(float((weights[name] - theirs[name]).abs().max()) for name in weights)
        assert worst < 1e-4, worst
        assert weights.keys() == theirs.keys()
    assert torch.is_tensor(next(iter(weights.values())))
