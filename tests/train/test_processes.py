"""Several processes learn what one learns: the same batches, the same losses, the same weights; also when one of them dies.

Two are started as users start them, by torchrun. Others are forked from one that has imported everything, for torchrun and its
processes take seconds to import. FSDP is asked for as `accelerate launch --use_fsdp` asks for it.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor, distributed

from mplug_owl.train import metrics
from mplug_owl.train.processes import joined_processes
from mplug_owl.train.run import open_data
from tests.school import initial_model, quietly
from tests.train.worker import met, typed
from tests.train.worker import run as recipe

ROOT = Path(__file__).parents[2]
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def specs(data: Path) -> list[str]:
    return [f"chat:{data}/{name}.jsonl" for name in ("chats", "text")]


def launched(
    processes: int, data: Path, out: Path, *options: str, restarts: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The README's command on this many CPU processes of one machine; seconds, or minutes where it is busy."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    words = [f"--data={spec}" for spec in specs(data)]
    command = [sys.executable, "-m", *torchrun, "-m", "mplug_owl_cli", "train", "tests/train/worker.py:run", *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*command, f"--out={out}", *options], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300
    )


def forked(processes: int, data: Path, out: Path, *options: str, restart: int = 0, **environment: str) -> tuple[list, str]:
    """The same command without torchrun: how each process ended, and what they said. Who is killed takes the others along."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["mplug_owl.train.run", "mplug_owl.recipes.tiny"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "train",
        f"{ROOT}/tests/train/worker.py:run",
        *(f"--data={spec}" for spec in specs(data)),
        f"--out={out}",
        *options,
    ]
    joined = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    said = out.with_suffix(".stderr")
    started = []
    for rank in range(processes):
        places = {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RESTART_COUNT": restart, **joined, **environment}
        settings = {name: str(value) for name, value in places.items()}
        started.append(context.Process(target=typed, args=(words, settings, said)))
        started[-1].start()
    begun = time.monotonic()
    while any(process.is_alive() for process in started) and time.monotonic() - begun < 300:
        wait([process.sentinel for process in started if process.is_alive()], timeout=1)
        if -signal.SIGKILL in {process.exitcode for process in started}:
            break
    for process in started:
        process.kill()
        process.join()
    return [process.exitcode for process in started], said.read_text()


def finished(done: subprocess.CompletedProcess[str], out: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What a run left: its lines of metrics and its weights."""
    assert done.returncode == 0, done.stderr[-3000:]
    return left(out)


def ended(done: tuple[list, str], out: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What a run of forked processes left."""
    codes, said = done
    assert set(codes) == {0}, said[-3000:]
    return left(out)


def left(out: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    return metrics.read(out / "metrics.jsonl"), load_file(out / "model" / "model.safetensors")


def assert_the_same(one: tuple, many: tuple, off: float = 1e-5) -> None:
    """Losses and gradients of every step, and the weights at the end."""
    assert [row["step"] for row in many[0]] == [row["step"] for row in one[0]]
    for alone, together in zip(one[0], many[0], strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], abs=off)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=off)
        assert together["supervised_tokens"] == alone["supervised_tokens"]
    assert many[1].keys() == one[1].keys()
    worst = max(float((one[1][name] - weight).abs().max()) for name, weight in many[1].items())
    assert worst <= 10 * off, worst


def alone_into(data: Path, out: Path, resume: bool = False) -> tuple:
    sources, _ = open_data(specs(data))
    same = replace(recipe(), data=tuple(specs(data)))
    quietly(same, initial_model(same, sources), sources, out, resume=resume)
    return left(out)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    return alone_into(data, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two processes that nothing disturbed; --resume in a fresh folder begins a run."""
    out = tmp_path_factory.mktemp("two")
    return out, launched(2, data, out, "--resume")


@pytest.fixture(scope="module")
def sharded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[list, str]]:
    """Two processes that hold half of every weight each."""
    out = tmp_path_factory.mktemp("sharded")
    return out, forked(2, data, out, "--resume", **SHARDED)


def test_two_learn_what_one_learns(alone: tuple, two: tuple) -> None:
    out, done = two
    assert_the_same(alone, finished(done, out))


def test_one_of_them_speaks(two: tuple) -> None:
    out, done = two
    assert done.stdout == f"{out}/model\n"
    said = done.stderr.splitlines()
    assert sum("who learns" in line for line in said) == 1
    assert [line.split("  ")[0] for line in said if "step" in line] == [f"lesson: step {step}/6" for step in range(1, 7)]
    assert not [line for line in said if "Warning" in line or "rank" in line]


def test_what_ends_one_ends_all(data: Path, two: tuple) -> None:
    out, _ = two
    codes, said = forked(2, data, out)
    assert codes == [2, 2]
    assert said.count(f"owl: {out}: holds a run already; choose another --out, or continue it by --resume\n") == 1


@pytest.mark.slow
def test_so_it_is_under_torchrun(data: Path, two: tuple) -> None:
    out, _ = two
    done = launched(2, data, out, restarts=0)
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count(f"owl: {out}: holds a run already; choose another --out, or continue it by --resume\n") == 1
    assert {int(code) for code in re.findall(r"exitcode +: (-?\d+)", done.stderr)} <= {2, -15}


def test_shares_learn_what_whole_weights_learn(alone: tuple, sharded: tuple) -> None:
    out, done = sharded
    assert_the_same(alone, ended(done, out))


def test_one_goes_on_where_two_with_shares_stopped(data: Path, alone: tuple, sharded: tuple, tmp_path: Path) -> None:
    """A checkpoint does not show who wrote it."""
    out, _ = sharded
    shutil.copytree(out / "checkpoints" / "step-00000002", tmp_path / "checkpoints" / "step-00000002")
    shutil.copy(out / "metrics.jsonl", tmp_path)
    assert_the_same(alone, alone_into(data, tmp_path, resume=True))


def test_after_one_was_killed_they_go_on_and_nothing_is_lost(data: Path, two: tuple, tmp_path: Path) -> None:
    out = tmp_path / "out"
    codes, _ = forked(2, data, out, "--resume", HARM="KILL:3")
    assert codes[1] == -signal.SIGKILL
    done = forked(2, data, out, "--resume", restart=1, HARM="KILL:3")
    assert_the_same(left(two[0]), ended(done, out), off=0)
    assert "resuming after step 2" in " ".join(done[1].split())  # long paths are broken into lines


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_nothing_is_lost(data: Path, two: tuple, tmp_path: Path) -> None:
    done = launched(2, data, tmp_path, "--resume", HARM="KILL:3")
    assert_the_same(left(two[0]), finished(done, tmp_path), off=0)
    assert "resuming after step 2" in " ".join(done.stderr.split())  # long paths are broken into lines


@pytest.mark.slow
def test_so_is_one_that_holds_shares(data: Path, sharded: tuple, tmp_path: Path) -> None:
    done = launched(2, data, tmp_path, "--resume", HARM="KILL:3", **SHARDED)
    assert_the_same(ended(sharded[1], sharded[0]), finished(done, tmp_path), off=0)
    assert "resuming after step 2" in " ".join(done.stderr.split())  # long paths are broken into lines


@pytest.mark.slow
def test_a_hung_process_is_started_again_and_nothing_is_lost(data: Path, two: tuple, tmp_path: Path) -> None:
    """Its silence is noticed after process_timeout; torchrun gives it 30 seconds more to leave, then ends it."""
    done = launched(2, data, tmp_path, "--resume", "--set=process_timeout=10", HARM="STOP:3")
    assert_the_same(left(two[0]), finished(done, tmp_path), off=0)
    assert "resuming after step 2" in " ".join(done.stderr.split())  # long paths are broken into lines


def test_nodes_that_count_their_restarts_differently_meet() -> None:
    """Of two nodes the one whose process died counts one restart more, and the store remembers what the dead one asked."""
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set("asking 1", "dead")
    context = get_context("forkserver")
    both = [context.Process(target=met, args=(rank, restarts, store.port)) for rank, restarts in ((0, 0), (1, 1))]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in both] == [41, 41]


def test_the_recipe_alone_says_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher's configuration may ask for fp16, whose losses would have to be scaled."""
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with joined_processes(recipe(), tmp_path) as accelerator:
        assert accelerator.mixed_precision == "no"


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, SHARDED], ids=["whole", "shares"])
def test_four_learn_what_one_learns(how: dict[str, str], data: Path, alone: tuple, tmp_path: Path) -> None:
    assert_the_same(alone, finished(launched(4, data, tmp_path, **how), tmp_path))
