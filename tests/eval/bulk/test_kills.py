"""The command itself, killed 20 times at any instant, in one process and in two: exactly one answer a question."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mplug_owl.scenes import scene

pytestmark = pytest.mark.slow
COUNT, KILLS = 400, 20
ASKED = ("How many things are there?", "What do you see?", "What is written in the picture?", "Is there a circle?")


def write(folder: Path) -> Path:
    """Questions about drawn scenes."""
    rows = []
    for number in range(COUNT):
        if number % 4 == 0:
            scene(number).draw().save(folder / f"{number}.png")
        rows.append({"id": f"q{number}", "image": f"{number - number % 4}.png", "question": ASKED[number % 4]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "questions.jsonl"


def command(source: Path, out: Path, processes: int, *options: str) -> list[str]:
    owl = ["mplug_owl_cli", "answer", "owl-tiny", "--in", f"questions:{source}", "--out", str(out), "--batch", "4", *options]
    if processes == 1:
        return [sys.executable, "-m", *owl]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", *owl]


def begin(words: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}  # Ray's own is 15
    return subprocess.Popen(words, start_new_session=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def written(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in out.with_name(f"{out.name}.run").glob("part-*.jsonl"))


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def check(found: list[dict], expected: list[dict]) -> None:
    """The same questions, once each, in order. Another batch rounds otherwise, so a near tie may fall the other way."""
    assert [{**row, "answer": ""} for row in found] == [{**row, "answer": ""} for row in expected]
    assert sum(one["answer"] != other["answer"] for one, other in zip(found, expected, strict=True)) <= COUNT // 100


def kill(running: subprocess.Popen) -> None:
    """All of it, at once. torchrun gives its workers sessions of their own."""
    try:
        family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, timeout=10)
    running.communicate()


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_twenty_times(processes: int, tmp_path: Path) -> None:
    source, drawn = write(tmp_path), random.Random(processes)
    whole = tmp_path / "whole.jsonl"
    subprocess.run(command(source, whole, 1), check=True, capture_output=True)
    out, kills = tmp_path / "answers.jsonl", 0
    while kills < KILLS:
        running, before = begin(command(source, out, processes)), written(out)
        more = drawn.randint(0, 9)  # so many answers, and a moment more; or earlier, while it begins
        deadline = time.monotonic() + (drawn.uniform(0.5, 6) if more == 0 else 120)
        while running.poll() is None and written(out) < before + max(more, 1) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(drawn.uniform(0, 0.02))
        assert running.poll() is None, "it ended before it could be killed"
        kill(running)
        kills += 1
        assert not out.exists()
    assert 0 < written(out) < COUNT
    subprocess.run(command(source, out, processes), check=True, capture_output=True)
    check(rows(out), rows(whole))
    assert [row["question_id"] for row in rows(out)] == [f"q{number}" for number in range(COUNT)]


def test_accelerate_launches_it(tmp_path: Path) -> None:
    source, out = write(tmp_path), tmp_path / "answers.jsonl"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--num_machines", "1"]
    words = command(source, out, 1, "--limit", "12")[1:]
    done = subprocess.run(
        [*launch, "--mixed_precision", "no", "--dynamo_backend", "no", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [row["record"] for row in rows(out)] == list(range(1, 13))


RAY = "RAY_ENVIRONMENT"


@pytest.fixture
def ray() -> str:
    if RAY not in os.environ:
        pytest.skip(f"{RAY} names no environment with ray; docs/answering.md says what to install there")
    return str(Path(os.environ[RAY]) / "bin" / "python")


def actors() -> list[int]:
    """Ray's actors that answer, by their process numbers."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and re.search(rb"ray::.*Answerer", (folder / "cmdline").read_bytes()):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def test_ray_loses_an_actor_and_its_driver(ray: str, tmp_path: Path) -> None:
    source, out, whole = write(tmp_path), tmp_path / "answers.jsonl", tmp_path / "whole.jsonl"
    subprocess.run(command(source, whole, 1), check=True, capture_output=True)
    words = [ray, *command(source, out, 1, "--ray", "--workers", "2")[1:]]
    running = begin(words)
    try:
        wait(running, lambda: written(out) > 4 and len(actors()) >= 2)
        os.kill(actors()[0], signal.SIGKILL)
        before = written(out)
        wait(running, lambda: written(out) > before + 20)
    finally:
        kill(running)
    assert 0 < written(out) < COUNT
    time.sleep(5)  # Ray's own processes notice that their driver is gone
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    check(rows(out), rows(whole))


def wait(running: subprocess.Popen, until, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert running.poll() is None, running.stderr.read().decode() if running.stderr else ""
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)
