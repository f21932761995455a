"""kill -9 at random instants, again and again: does the run end as if it had never been killed, bit for bit?

A small owl learns from coloured squares with all on that draws random numbers: dropout in the abstractor and in LoRA, packed
rows, data workers. A process of its own trains and writes a checkpoint every few steps; it is killed with its workers at
random, every second time in the very moment of writing, and started again to resume, until enough kills are counted. Then
weights, losses and gradient norms are compared with a run that was left alone. `make test` does it with five.

    python benchmarks/kills.py [--kills 50] [--workers 0] [--seed 0]
"""

import argparse
import json
import os
import signal
import tempfile
import time
import warnings
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

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


def recipe(data: Path, workers: int) -> Recipe:
    """Everything that draws a random number is on."""
    base = tiny.pretrain()
    return replace(
        base,
        name="kills",
        modules=replace(tiny.PACKABLE, vocabulary=300),
        trainable=Trainable("full", "full", "lora"),
        lora=LoRA(rank=4, alpha=8, dropout=0.2),
        encoding=Encoding(max_tokens=256, pack=512),
        data=(f"captions:{data}/captions.jsonl", f"text:{data}/text.jsonl"),
        steps=STEPS,
        batch=6,
        micro_batch=6,
        precision="fp32",
        workers=workers,
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


def child(data: Path, out: Path, workers: int, steps: int) -> None:
    """Train in this process, going on with what is there."""
    os.setsid()  # so that its workers are killed with it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made = replace(recipe(data, workers), steps=steps)
    train(made, out, resume=(out / "recipe.json").exists(), reporter=Silent())


def start(data: Path, out: Path, workers: int, steps: int) -> BaseProcess:
    """A process that trains into `out`. It is forked from one that has imported everything, which takes seconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["mplug_owl.train.run", "mplug_owl.recipes.tiny"])
    process = context.Process(target=child, args=(data, out, workers, steps))
    process.start()
    return process


def kill_in_time(process: BaseProcess, out: Path, random: Random, saving: bool) -> bool:
    """Kill a child and all it started, at random or while it writes; False where it had finished before."""
    begun = len(metrics.read(out / "metrics.jsonl"))
    patience = time.monotonic() + 120
    # Wait until it has gone on, so that every kill costs work.
    while process.is_alive() and len(metrics.read(out / "metrics.jsonl")) <= begun and time.monotonic() < patience:
        time.sleep(0.01)
    if saving:
        while process.is_alive() and not list((out / "checkpoints").glob(".*.partial")) and time.monotonic() < patience:
            time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.01))
    else:
        time.sleep(random.uniform(0, 1.5))
    if not process.is_alive():
        return False
    os.killpg(process.pid, signal.SIGKILL)
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


def measure(kills: int, workers: int, seed: int, folder: Path, steps: int = STEPS) -> tuple[int, int, int]:
    """Kills counted, runs they fell into, runs among them that ended bit-identical."""
    random, data = Random(seed), folder / "data"
    write(data, random)
    whole = folder / "whole"
    finish(start(data, whole, workers, steps))
    done = runs = identical = 0
    while done < kills:
        out = folder / f"run{runs}"
        process = start(data, out, workers, steps)
        while done < kills and kill_in_time(process, out, random, saving=done % 2 == 0):
            done += 1
            process = start(data, out, workers, steps)
        finish(process)
        difference = same(whole, out)
        runs, identical = runs + 1, identical + (difference == "")
        print(f"run {runs}: {done} kills so far, {difference or 'bit-identical'}", flush=True)
    return done, runs, identical


def finish(process: BaseProcess) -> None:
    """Let a run end by itself."""
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"a run that nobody killed ended with {process.exitcode}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        counted = measure(arguments.kills, arguments.workers, arguments.seed, Path(name))
    print("{} kills in {} runs, {} of them bit-identical to the run that was left alone".format(*counted))
