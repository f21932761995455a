"""How long it takes from many shards to the first step of a training, and the memory at its peak.

Simulated: 41,408 shards as LAION-400M has, with 100 samples each. A few real shards of tiny JPEGs are made, and the others are
hard links to them; what is kept of a shard goes by its name, so each is a shard of its own. Each case is a process of its
own with an empty cache: with img2dataset's `NNNNN_stats.json` beside them, with nothing beside them, and, with `--index`,
after `owl index`.

    python -m benchmarks.shards [--shards 41408] [--samples 100] [--folder FOLDER] [--index]
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.command import count, machine
from benchmarks.tars import add

# Seconds to the first step that were set as the aim, for 41,408 shards of 100 samples.
BARS = {"stats": 60.0, "nothing": 300.0, "index": 60.0}
# Shards with bytes of their own. A file system allows some 65,000 links to one file, so a few do.
REAL = 8


@dataclass(frozen=True)
class Cost:
    """Seconds to the first step by the clock and of CPU, the part that opening took, and the peak of memory in MiB."""

    seconds: float
    cpu: float
    opening: float
    mebibytes: float


def make(folder: Path, shards: int, samples: int) -> None:
    """Shards `00000.tar` and on, each with its stats beside it. Real ones differ in their number of samples by a few."""
    real = [_shard(folder / f"real-{number}", number, samples - number % 4) for number in range(min(REAL, shards))]
    for number in range(shards):
        path, count = real[number % len(real)]
        (folder / f"{number:05d}.tar").hardlink_to(path)
        (folder / f"{number:05d}_stats.json").write_text(json.dumps({"count": samples, "successes": count}))
    for path, _ in real:
        path.unlink()


def _shard(path: Path, seed: int, samples: int) -> tuple[Path, int]:
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            file = io.BytesIO()
            Image.effect_noise((32, 32), 20 + seed).convert("RGB").save(file, "JPEG")
            words = f"a picture of something, number {number}"
            members = {"jpg": file.getvalue(), "json": json.dumps({"caption": words}).encode(), "txt": words.encode()}
            for ending, content in members.items():
                add(tar, f"{seed:05d}{number:04d}.{ending}", content)
    return path, samples


def first_step(pattern: str, out: Path) -> Cost:
    """A training of one step, its model and data included; what Python and torch take to be imported is not."""
    from mplug_owl.recipes import tiny
    from mplug_owl.train import run

    opening, real = 0.0, run.open_data

    def timed(specs: Sequence[str], image_root: str | None = None) -> Any:
        nonlocal opening
        began, found = time.perf_counter(), real(specs, image_root)
        opening = time.perf_counter() - began
        return found

    run.open_data = timed
    began, cpu = time.perf_counter(), time.process_time()
    recipe = replace(tiny.pretrain(), data=(pattern,), steps=1, batch=32, micro_batch=32, workers=0, save_every=None)
    run.train(recipe, out)
    run.open_data = real
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(time.perf_counter() - began, time.process_time() - cpu, opening, peak)


def measured(pattern: str, cache: Path) -> Cost:
    """`first_step` in a process of its own, whose cache is `cache`."""
    code = (
        "import dataclasses, json, pathlib, sys; from benchmarks.shards import first_step; "
        "print(json.dumps(dataclasses.asdict(first_step(sys.argv[1], pathlib.Path(sys.argv[2])))))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", code, pattern, str(cache / "run")]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def main(shards: int, samples: int, folder: Path | None, index: bool) -> dict[str, Cost]:
    """Print seconds, CPU seconds and memory of each case beside its bar."""
    print(machine())
    costs = dict[str, Cost]()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        data = Path(place, "data")
        data.mkdir()
        make(data, shards, samples)
        pattern = f"webdataset:{data}/{{00000..{shards - 1:05d}}}.tar"
        for case in ("stats", "nothing", *(["index"] if index else [])):
            cache = Path(place, case)
            cache.mkdir()
            if case == "nothing":
                for path in data.glob("*_stats.json"):
                    path.unlink()
            if case == "index":
                print(f"owl index: {_index(pattern, cache):.0f} s for {shards:,} shards, two processes")
            cost = costs[case] = measured(pattern, cache)
            print(
                f"{shards:,} shards of {samples}, {case}: first step after {cost.seconds:.1f} s (bar {BARS[case]:g} s), "
                f"{cost.cpu:.1f} s of CPU; opening {cost.opening:.1f} s; peak {cost.mebibytes:,.0f} MiB"
            )
    return costs


def _index(pattern: str, cache: Path) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "mplug_owl_cli", "index", pattern, "--cache", "--workers", "2"]
    subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=count, default=41_408)
    parser.add_argument("--samples", type=count, default=100)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--index", action="store_true")
    arguments = parser.parse_args()
    main(arguments.shards, arguments.samples, arguments.folder, arguments.index)
