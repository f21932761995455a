"""How many pictures a second one core makes ready to learn from: read, decoded, resized, normalised, encoded, packed; and what
share of its time a training waits for them.

JPEGs of `--side` pixels are drawn once, into a tar shard as img2dataset writes it; nothing is remembered between samples. The
training is a stage 1 of the tiny recipe with eyes for 224 pixels, packed and cropped, one worker beside it.

    python -m benchmarks.data [--pictures 2000] [--side 224] [--steps 20]
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.command import count, machine
from benchmarks.tars import add
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import Source, read
from mplug_owl.data.survey import Survey
from mplug_owl.model.build import build
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.recipes import tiny
from mplug_owl.train import metrics
from mplug_owl.train.loop import fit
from mplug_owl.train.run import initial_model


def shard(path: Path, pictures: int, side: int) -> None:
    """A tar of KEY.jpg, KEY.txt and KEY.json; smooth noise compresses about as a photograph does."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(pictures):
            coarse = Image.fromarray(random.integers(0, 256, (14, 14, 3), dtype=np.uint8))
            file = io.BytesIO()
            coarse.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            words = f"a picture of something, number {number}"
            members = {"jpg": file.getvalue(), "txt": words.encode(), "json": json.dumps({"caption": words}).encode()}
            for ending, content in members.items():
                add(tar, f"{number:09d}.{ending}", content)


def owl_224() -> MplugOwlConfig:
    """The tiny owl with LLaMA's layers, for pictures of the original's size: 257 vision tokens."""
    config = tiny.llama_owl_tiny().to_dict()
    config["vision_config"]["image_size"] = 224
    return MplugOwlConfig(**config)


def waited(source: Source, steps: int, folder: Path) -> float:
    """The share of its time that a training waits for its data behind the first step."""
    recipe = replace(
        tiny.pretrain(),
        modules=replace(tiny.PACKABLE, config=owl_224),
        encoding=Encoding(max_tokens=128, pack=1024, crop=0.9),
        steps=steps,
        workers=1,
        log_every=steps,
        save_every=None,
    )
    survey = Survey([source])
    fit(recipe, initial_model(recipe, survey), survey, folder)
    return metrics.read(folder / "metrics.jsonl")[-1]["data_wait"]


def speed(source: Source, pictures: int, crop: float | None) -> float:
    """Pictures a second of one process with one thread, for the original's 224 pixels."""
    owl = build(tiny.PACKABLE, ("a picture of something, number 0123456789",), seed=0)
    owl.processor.image_processor.size = 224
    mixture = Mixture([pictures], [None], 64, seed=0)
    steps = StepDataset(Examples([source], owl.processor, Encoding(512, pack=4096, crop=crop), seed=0), mixture, micro_batch=64)
    steps[0]
    began = time.perf_counter()
    made = sum(len(batch.names) for number in range(1, pictures // 64) for batch in steps[number].batches)
    return made / (time.perf_counter() - began)


def main(pictures: int, side: int, steps: int) -> None:
    """Print pictures a second, whole and cropped, and what share of a training is waiting."""
    torch.set_num_threads(1)
    print(f"{machine()}; one thread")
    with tempfile.TemporaryDirectory() as folder:
        shard(Path(folder, "00000.tar"), pictures, side)
        source = read(f"webdataset:{folder}/00000.tar")
        for crop, how in ((None, "whole"), (0.9, "cropped")):
            made = speed(source, pictures, crop)
            print(f"{made:.0f} pictures/s of {side} x {side} JPEG to 224 x 224 on one core, {how} (bar: 250)")
        share = waited(source, steps, Path(folder, "run"))
    print(f"data_wait {share:.2%} of {steps - 1} steps behind the first, one worker (bar: 5 %)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=count, default=2000)
    parser.add_argument("--side", type=count, default=224)
    parser.add_argument("--steps", type=count, default=20)
    arguments = parser.parse_args()
    if arguments.pictures < 128 or arguments.steps < 2:
        parser.error("expected --pictures 128 or more, which are two batches, and --steps 2 or more: the first is not timed")
    main(arguments.pictures, arguments.side, arguments.steps)
