"""kill -9 at random instants, again and again: does the run end as if it had never been killed, bit for bit?

A small owl learns from coloured squares with all on that draws random numbers: dropout in the abstractor and in LoRA, packed
rows, data workers. A run of one process or several writes a checkpoint every few steps; it is killed with its workers at
random, every second time in the very moment of writing, and started again to resume, until enough kills are counted. Of
several processes one dies first and the others a little later. Then weights, losses and gradient norms are compared with a
run that was left alone. With `--order blocks` the squares are in parquet's row groups, read block by block. `make test` does
it with five kills.

    python -m benchmarks.kills [--kills 50] [--workers 0] [--processes 1] [--order random] [--steps 120] [--seed 0]

With `--folder` what was counted stays there, and the same command goes on with it.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Literal

import torch
from PIL import Image
from safetensors.torch import load_file

from mplug_owl.data.encode import Encoding
from mplug_owl.recipes import tiny
from mplug_owl.train import metrics
from mplug_owl.train.recipe import LoRA, Recipe, Trainable
from mplug_owl.train.reporter import Silent
from mplug_owl.train.run import train

STEPS, SAVED_EVERY, SAMPLES = 120, 2, 24
# Rows of a parquet group: 24 samples are five blocks.
GROUP = 5


@dataclass(frozen=True)
class Trial:
    """How a run is made: data workers of each process, processes, the order of its samples, steps."""

    workers: int = 0
    processes: int = 1
    order: Literal["random", "blocks"] = "random"
    steps: int = STEPS


def recipe(data: Path, trial: Trial) -> Recipe:
    """Everything that draws a random number is on."""
    base = tiny.pretrain()
    kind = "parquet" if trial.order == "blocks" else "jsonl"
    return replace(
        base,
        name="kills",
        modules=replace(tiny.PACKABLE, vocabulary=300),
        trainable=Trainable("full", "full", "lora"),
        lora=LoRA(rank=4, alpha=8, dropout=0.2),
        encoding=Encoding(max_tokens=256, pack=512),
        data=(f"captions:{data}/captions.{kind}", f"text:{data}/text.jsonl"),
        order=trial.order,
        steps=trial.steps,
        batch=6,
        micro_batch=6,
        precision="fp32",
        workers=trial.workers,
        threads=1 if trial.processes > 1 else None,
        log_every=1,
        save_every=SAVED_EVERY,
    )


def write(folder: Path, random: Random) -> None:
    """Squares with captions of their colours, and text alone of all lengths."""
    folder.mkdir()
    captions, text = [], []
    for number in range(SAMPLES):
        colour = tuple(random.randrange(256) for _ in range(3))
        Image.new("RGB", (112, 112), colour).save(folder / f"{number}.png")
        captions.append({"image": f"{number}.png", "caption": "red {} green {} blue {}".format(*colour)})
        text.append({"text": " ".join(random.choices(("owl", "sees", "the", "square"), k=random.randint(4, 40)))})
    for name, rows in (("captions", captions), ("text", text)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_blocks(folder: Path) -> None:
    """The captions once more, in row groups of a parquet file."""
    from pyarrow import Table, parquet

    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    parquet.write_table(Table.from_pylist(rows), folder / "captions.parquet", row_group_size=GROUP)


def child(data: Path, out: Path, trial: Trial, rank: int, port: int) -> None:
    """Train in this process, going on with what is there."""
    os.setsid()  # so that its workers are killed with it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if trial.processes > 1:
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": trial.processes, "LOCAL_WORLD_SIZE": trial.processes}
        os.environ.update({name: str(value) for name, value in where.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(recipe(data, trial), out, resume=(out / "recipe.json").exists(), reporter=Silent())


def start(data: Path, out: Path, trial: Trial) -> list[BaseProcess]:
    """The processes that train into `out`. They are forked from one that has imported everything, which takes seconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["mplug_owl.train.run", "mplug_owl.recipes.tiny"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=child, args=(data, out, trial, rank, port)) for rank in range(trial.processes)]
    for process in processes:
        process.start()
    return processes


def kill_in_time(processes: list[BaseProcess], out: Path, random: Random, saving: bool) -> bool:
    """Kill a run and all it started, at random or while it writes; False where it had finished before."""
    begun = len(metrics.read(out / "metrics.jsonl"))
    patience = time.monotonic() + 120
    main = processes[0]
    # Wait until it has gone on, so that every kill costs work.
    while main.is_alive() and len(metrics.read(out / "metrics.jsonl")) <= begun and time.monotonic() < patience:
        time.sleep(0.01)
    if saving:
        while main.is_alive() and not list((out / "checkpoints").glob(".*.partial")) and time.monotonic() < patience:
            time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.01))
    else:
        time.sleep(random.uniform(0, 1.5))
    if not all(process.is_alive() for process in processes):
        return False
    for process in random.sample(processes, len(processes)):
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # another's death may have ended it
                os.killpg(process.pid, signal.SIGKILL)
        if process is not processes[-1]:
            time.sleep(random.uniform(0, 0.2) * (len(processes) > 1))
    for process in processes:
        process.join()
    return True


def same(one: Path, other: Path) -> str:
    """An empty string where two runs ended alike, else what differs."""
    ours, theirs = (metrics.read(run / "metrics.jsonl") for run in (one, other))
    exact = ("step", "loss", "lr", "grad_norm", "supervised_tokens")
    if [[row[name] for name in exact] for row in ours] != [[row[name] for name in exact] for row in theirs]:
        return "the metrics differ"
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    different = [name for name in first if not first[name].equal(second[name])]
    return f"weights differ, first {different[0]}" if different else ""


def measure(kills: int, trial: Trial, seed: int, folder: Path) -> tuple[int, int, int]:
    """Kills counted, runs they fell into, runs among them that ended bit-identical. What is in the folder counts too."""
    data, whole, counted = folder / "data", folder / "whole", Counted(folder / "counted.json", trial, seed)
    if not whole.with_suffix(".done").exists():
        for unfinished in (data, whole):
            shutil.rmtree(unfinished, ignore_errors=True)
        write(data, Random(seed))
        if trial.order == "blocks":
            write_blocks(data)
        finish(start(data, whole, trial))
        whole.with_suffix(".done").touch()
    done, runs, identical = counted.read()
    while done < kills or (folder / f"run{runs}").exists():  # a run that this stopped in, after its last kill
        out = folder / f"run{runs}"
        processes = start(data, out, trial)
        while done < kills and kill_in_time(processes, out, Random(f"{seed} {done}"), saving=done % 2 == 0):
            done += 1
            counted.write(done, runs, identical)
            processes = start(data, out, trial)
        finish(processes)
        difference = same(whole, out)
        runs, identical = runs + 1, identical + (difference == "")
        counted.write(done, runs, identical)
        print(f"run {runs}: {done} kills so far, {difference or 'bit-identical'}", flush=True)
    return done, runs, identical


@dataclass(frozen=True)
class Counted:
    """The file that keeps kills, runs and those bit-identical, of one trial and seed."""

    file: Path
    trial: Trial
    seed: int

    def read(self) -> list[int]:
        """What was counted so far. Raises SystemExit where it is of another trial."""
        if not self.file.exists():
            return [0, 0, 0]
        values = json.loads(self.file.read_text(encoding="utf-8"))
        if values["of"] != self._of():
            raise SystemExit(f"{self.file}: counted for {values['of']}; give another --folder")
        counts: list[int] = values["counts"]
        return counts

    def write(self, *counts: int) -> None:
        """Keep kills, runs, and those bit-identical."""
        self.file.write_text(json.dumps({"of": self._of(), "counts": counts}), encoding="utf-8")

    def _of(self) -> dict[str, object]:
        return {**asdict(self.trial), "seed": self.seed}


def finish(processes: list[BaseProcess]) -> None:
    """Let a run end by itself."""
    for process in processes:
        process.join()
    if ends := [process.exitcode for process in processes if process.exitcode != 0]:
        raise RuntimeError(f"a run that nobody killed ended with {ends[0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("kills", 50), ("workers", 0), ("processes", 1), ("steps", STEPS), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--order", choices=("random", "blocks"), default="random")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trial, folder = Trial(given.workers, given.processes, given.order, given.steps), given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(given.kills, trial, given.seed, folder)
    print(f"{trial}: " + "{} kills in {} runs, {} of them bit-identical to the run that was left alone".format(*found))
