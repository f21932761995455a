"""Training from an object store that answers after 50 ms: requests and bytes a sample, and what share of its time a run waits.

A stand-in store in a process of its own serves tar shards of 256-pixel JPEGs, 25 KB each, as img2dataset writes them. Steps of
`--batch` samples are read, decoded and encoded as a run does it; the training itself is a pause of `--step` seconds, in which
the core is free, as beside a GPU. Each row is a cold cache: the shards' tables are known (`owl index`), their bytes are not.
What local files make a run wait is there too, since without workers decoding is waiting wherever the bytes come from.

    python -m benchmarks.object_store [--shards 4] [--samples 1250] [--steps 24] [--batch 64] [--step 0.5] [--latency 0.05]
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import count, machine
from benchmarks.data import shard
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset, step_loader
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import read, read_ahead
from mplug_owl.data.sources.store import cache_folder
from mplug_owl.model.build import build
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.recipes import tiny
from tests.object_store import apart

SIDE = 256
BARS = {"blocks": 1 / 50, "random": 1.0}
WAIT_BAR = 0.05


@dataclass(frozen=True)
class Cost:
    """Of a run: requests and bytes a sample, seconds to the first step, the share of the others' time spent waiting.

    `pixels` is the sum of all that was shown.
    """

    requests: float
    bytes: float
    first: float
    waited: float
    pixels: float


def run(source: Any, processor: MplugOwlProcessor, order: str, workers: int, steps: int, batch: int, pause: float) -> Cost:
    """Read `steps` steps with a pause after each. Requests and bytes are for the caller to fill in."""
    blocks = [source.blocks] if order == "blocks" else None
    mixture = Mixture([len(source)], [None], batch, seed=0, blocks=blocks)
    examples = Examples([source], processor, Encoding(max_tokens=128), seed=0)
    dataset = StepDataset(examples, mixture, micro_batch=batch)
    began = asked = time.perf_counter()
    first = waited = pixels = 0.0
    for number, data in step_loader(dataset, 0, steps, workers):
        arrived = time.perf_counter()
        if number:
            waited += arrived - asked
        else:
            first = arrived - began
            began = arrived
        pixels += sum(float(one.pixel_values.double().sum()) for one in data.batches if one.pixel_values is not None)
        time.sleep(max(0.0, pause - (time.perf_counter() - arrived)))
        asked = time.perf_counter()
    return Cost(0, 0, first, waited / (asked - began), pixels)


def forget_bytes() -> None:
    """Leave the tables of the shards in the cache and nothing of their bytes, as in a new process on a new machine."""
    read_ahead._processes.clear()
    for piece in (cache_folder() / "chunks").glob("*"):
        piece.unlink()


def main(shards: int, samples: int, steps: int, batch: int, pause: float, latency: float) -> list[Cost]:
    """Print a row for each order and number of workers, from the store and from local files; return them."""
    torch.set_num_threads(1)
    print(f"{machine()}; {shards} shards of {samples:,} JPEGs, {SIDE} x {SIDE}; {latency * 1000:.0f} ms before each answer")
    owl = build(tiny.PACKABLE, ("a picture of something, number 0123456789",), seed=0)
    owl.processor.image_processor.size = 224
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        tars = Path(folder, "shards")
        tars.mkdir()
        shard(tars / "00000.tar", samples, SIDE)
        for number in range(1, shards):
            shutil.copy(tars / "00000.tar", tars / f"{number:05d}.tar")
        local = read(f"webdataset:{tars}")
        with apart(tars, latency) as store:
            names = f"{{00000..{shards - 1:05d}}}.tar"
            far = read(f"webdataset:{store.url}/{names}")
            size = sum(path.stat().st_size for path in tars.iterdir())
            asked, fetched = store.counts()
            print(f"tables of {len(far):,} samples read: {asked} requests, {fetched / size:.2f} of {size / 1e6:.0f} MB")
            print("order   workers  requests a sample (bar)  KB a sample  first step  waits (bar 5 %)  from local files")
            for order, workers in ((order, workers) for order in BARS for workers in (0, 2)):
                near = run(local, owl.processor, order, workers, steps, batch, pause)
                forget_bytes()
                store.forget()
                cost = run(far, owl.processor, order, workers, steps, batch, pause)
                asked, fetched = store.counts()
                assert cost.pixels == near.pixels, "the store gave other pictures"
                costs.append(Cost(asked / steps / batch, fetched / steps / batch, cost.first, cost.waited, cost.pixels))
                print(
                    f"{order:7} {workers:7}  1 / {1 / costs[-1].requests:5.1f}        (1 / {1 / BARS[order]:2.0f})"
                    f"      {costs[-1].bytes / 1000:8.1f}   {cost.first:7.2f} s  {cost.waited:12.1%}"
                    f"      {near.waited:10.1%}, {near.first:.2f} s",
                    flush=True,
                )
    return costs


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("shards", 4), ("samples", 1250), ("steps", 24), ("batch", 64)):
        parser.add_argument(f"--{name}", type=count, default=default)
    parser.add_argument("--step", type=float, default=0.5)
    parser.add_argument("--latency", type=float, default=0.05)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse()
    main(options.shards, options.samples, options.steps, options.batch, options.step, options.latency)
