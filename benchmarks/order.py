"""Shards read block by block beside a fully random order: does an owl learn as well?

The hard case: scenes with captions, sorted by the first thing in them, so that each shard holds one kind. The tiny owl learns
stage 1 from them three times, from the same first weights: in random order; in blocks, 64 stretches at once, as `order=blocks`
reads; and in blocks with one stretch alone, as shards read one after the other with a shuffle buffer of 256. The curves are
drawn, and every model is asked about scenes that none has seen. Before that, the first step of a resumed run is timed.

    python -m benchmarks.order [--steps 200] [--shards 640] [--shard-size 10] [--picture FILE.png]

With `--steps 0` the first step is timed alone.
"""

import argparse
import io
import json
import re
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.command import machine, new_file
from benchmarks.tars import add
from mplug_owl.conversation import Conversation
from mplug_owl.data import order
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import Source, read
from mplug_owl.data.survey import Survey
from mplug_owl.model.load import Owl
from mplug_owl.recipes import tiny
from mplug_owl.train import metrics
from mplug_owl.train.loop import batch_loss, fit
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.run import initial_model

WINDOW = 10  # steps that a point of a curve is the mean of
UNSEEN = 256
# The name of a curve, the recipe's order, and how many stretches are read at once.
ORDERS = (("random", "random", order.LANES), ("blocks", "blocks", order.LANES), ("blocks, one stretch", "blocks", 1))


@dataclass(frozen=True)
class Unseen:
    """Captions of the drawn world after those that the shards hold."""

    source: Source
    first: int
    name: str = "unseen"

    def __len__(self) -> int:
        return UNSEEN

    def __getitem__(self, index: int) -> Conversation:
        return self.source[self.first + index]


def write_shards(folder: Path, source: Source, shards: int, size: int) -> None:
    """The first scenes of a source as WebDataset shards, sorted by kind: the first thing that a caption names."""
    talks = [source[index] for index in range(shards * size)]
    kinds = [_kind(talk.answers[0]) for talk in talks]
    talks = [talks[index] for index in sorted(range(len(talks)), key=lambda index: kinds[index])]
    for shard in range(shards):
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": size, "successes": size}), encoding="utf-8")
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number, talk in enumerate(talks[shard * size : (shard + 1) * size]):
                picture, drawn = io.BytesIO(), talk.pictures[0].source
                assert isinstance(drawn, Image.Image)
                drawn.save(picture, "png")
                for ending, raw in (("png", picture.getvalue()), ("txt", talk.answers[0].encode())):
                    add(tar, f"{number:05d}.{ending}", raw)


def _kind(caption: str) -> tuple[str, ...]:
    """Shape, colour and size of the first thing, empty where there are words alone."""
    found = re.search(r"(small|large) (\w+) (\w+)", caption)
    return found.groups()[::-1] if found else ()


def learn(made: Recipe, source: Source, unseen: Source, lanes: int, out: Path) -> tuple[np.ndarray, float]:
    """The loss of every step [steps], and at the end that of what was never seen."""
    survey = Survey([source])
    owl = initial_model(made, survey)
    with patch.object(order, "LANES", lanes):
        fit(made, owl, survey, out)
    return np.array([row["loss"] for row in metrics.read(out / "metrics.jsonl")]), loss_of(owl, made, unseen)


def loss_of(owl: Owl, made: Recipe, source: Source) -> float:
    """The mean loss of a token."""
    examples = Examples([source], owl.processor, made.encoding, 0)
    batches = StepDataset(examples, Mixture([len(source)], [None], len(source), 0), made.micro_batch)[0].batches
    supervised = torch.tensor(sum(batch.supervised for batch in batches))
    owl.model.eval()
    with torch.no_grad():
        return sum(float(batch_loss(owl.model, batch, supervised, made.precision)) for batch in batches)


def draw(curves: Sequence[tuple[str, np.ndarray]], picture: Path) -> None:
    """The curves, each point the mean of `WINDOW` steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss of the samples of a step", yscale="log")
    for (title, losses), style in zip(curves, ("-", "-", ":"), strict=True):
        windows = losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(1)
        axes.plot(np.arange(len(windows)) * WINDOW + WINDOW / 2, windows, style, label=title)
    axes.legend(title="order of samples")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=130)


def time_first_step() -> None:
    """CPU seconds until the samples of step 500,000 are known, quickest of five."""
    places, blocks = 414_080_000, [np.full(41_408, 10_000)]  # LAION-400M
    for title, sizes, weights, of in (
        ("LAION-400M, random", [places], [None], None),
        ("LAION-400M, blocks", [places], [None], blocks),
        ("two sources, 3 to 1.7", [1_000_000, 500_000], [3.0, 1.7], None),
        ("three, by their sizes", [1_000_000, 500_000, 3_000], [None, None, None], None),
        ("six of 150,000, 10 8 5 3 2 1.3", [150_000] * 6, [10.0, 8.0, 5.0, 3.0, 2.0, 1.3], None),
        ("six of 262,144, the most that is held", [order.IN_MEMORY] * 6, [10.0, 8.0, 5.0, 3.0, 2.0, 1.3], None),
        ("six of 1,000,000", [1_000_000] * 6, [10.0, 8.0, 5.0, 3.0, 2.0, 1.3], None),
    ):
        took = []
        for _ in range(5):
            order._held.cache_clear()
            began = time.process_time()
            Mixture(sizes, weights, 256, 0, blocks=of).step(500_000)
            took.append(time.process_time() - began)
        print(f"first step at step 500,000, {title}: {min(took) * 1e3:.0f} ms (bar: 50)", flush=True)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("steps", 200), ("shards", 640), ("shard-size", 10)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--picture", type=new_file, default=Path("order.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    time_first_step()
    if not given.steps:
        return
    made = replace(tiny.pretrain(), name="order", steps=given.steps, log_every=1, save_every=None, threads=1)
    with tempfile.TemporaryDirectory() as name:
        folder, world = Path(name), read("scenes:captions")
        write_shards(folder, world, given.shards, given.shard_size)
        source, unseen, curves = read(f"webdataset:{folder}"), Unseen(world, given.shards * given.shard_size), []
        for title, of, lanes in ORDERS:
            losses, after = learn(replace(made, order=of), source, unseen, lanes, folder / title)
            curves.append((title, losses))
            ends = (
                f"loss {losses[:WINDOW].mean():.3f} at first, {losses[-5 * WINDOW :].mean():.3f} in the last {5 * WINDOW} steps"
            )
            print(f"{title}: {ends}, of {UNSEEN} unseen scenes {after:.3f}", flush=True)
    draw(curves, given.picture)


if __name__ == "__main__":
    main()
