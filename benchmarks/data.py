"""How many pictures a second one core makes ready to learn from: read, decoded, resized, normalised, encoded, packed.

JPEGs of `--side` pixels are drawn once, into a tar shard as img2dataset writes it; nothing is remembered between samples.

    python benchmarks/data.py [--pictures 2000] [--side 224]
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mplug_owl.data.loader import Encoding, Steps
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import read
from mplug_owl.model.build import build
from mplug_owl.recipes import tiny


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
                entry = tarfile.TarInfo(f"{number:09d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def main(pictures: int, side: int) -> None:
    """Print pictures a second of one process with one thread, for the original's 224 pixels."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shard(Path(folder, "00000.tar"), pictures, side)
        source = read(f"webdataset:{folder}/00000.tar")
        owl = build(tiny.pretrain().modules, ("a picture of something, number 0123456789",), seed=0)
        owl.processor.image_processor.size = 224
        mixture = Mixture([pictures], [None], 64, seed=0)
        steps = Steps([source], mixture, owl.processor, Encoding(max_tokens=512, pack=4096), micro_batch=64)
        steps[0]
        began = time.perf_counter()
        count = pictures // 64 - 1
        made = sum(len(batch.names) for number in range(1, 1 + count) for batch in steps[number].batches)
        seconds = time.perf_counter() - began
    print(f"{made / seconds:.0f} pictures/s of {side} x {side} JPEG to 224 x 224 on one core (bar: 250)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    main(arguments.pictures, arguments.side)
