"""What opening a large JSON list costs: memory and CPU seconds, beside one pass of `json.load`.

A list like LLaVA's is written into a temporary folder, records of 1.5 KB. Each figure is a process's own: memory is its peak
above what it was when everything was imported. Two data workers then read records at random, and their memory (PSS, which
counts a shared page by its share) is set beside that of workers on a list of one record.

    python -m benchmarks.big_json [--megabytes 1000]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from benchmarks.command import count, machine
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.records import Records

# Megabytes above the empty process.
BAR = 150
WORDS = "the a of picture shows red large owl near left bird tree sits café and with two small 你好 what where how many"


def main() -> None:
    """Write a list, measure in processes of their own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=count, default=1000)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        name, path = given.measure
        print(json.dumps(MEASURES[name](Path(path))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        large, one = Path(folder) / "large.json", Path(folder) / "one.json"
        records = write(large, given.megabytes * 10**6)
        one.write_text("[{}]")
        print(f"{machine()}; a list of {records:,} records, {large.stat().st_size / 1e6:,.0f} MB")
        whole = measured("load", large)
        for name in ("first", "second"):
            found = measured("open", large)
            ratio = found["cpu"] / whole["cpu"]
            print(
                f"{name} opening: {found['cpu']:.2f} CPU s, {ratio:.2f} of json.load; peak {found['peak']:,.0f} MB above the "
                f"empty process (bar {BAR})"
            )
        print(f"json.load: {whole['cpu']:.2f} CPU s; peak {whole['peak']:,.0f} MB above the empty process")
        kept = sum(file.stat().st_size for file in Path(folder).rglob("*.stretches"))
        print(f"kept for the next opening: {kept / 1e6:.1f} MB")
        here, there = measured("work", large)["pss"], measured("work", one)["pss"]
        print(f"two data workers: {here:,.0f} MB together, {here - there:+,.0f} MB beside those on a list of one record")


def write(path: Path, size: int) -> int:
    """Write a list of at least so many bytes; how many records it has."""
    drawn, words = random.Random(0), WORDS.split()
    talks = [[{"from": who, "value": " ".join(drawn.choices(words, k=40))} for who in ("human", "gpt") * 3] for _ in range(500)]
    bodies = [json.dumps(talk, ensure_ascii=bool(number % 2)) for number, talk in enumerate(talks)]
    records = 0
    with path.open("w", encoding="utf-8") as out:
        out.write("[")
        while records == 0 or records % 100 or out.tell() < size:
            name = f"coco/train2017/{records:012d}.jpg"
            body = bodies[drawn.randrange(len(bodies))]
            comma = ",\n" if records else ""
            out.write(f'{comma}  {{"id": "{records}", "image": "{name}", "conversations": {body}}}')
            records += 1
        out.write("\n]\n")
    return records


def measured(name: str, path: Path) -> dict[str, float]:
    """One of the figures below, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.big_json", "--measure", name, str(path)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def megabytes(field: str, process: int | str = "self", file: str = "status") -> float:
    """A line of what Linux tells about a process's memory."""
    lines = Path(f"/proc/{process}/{file}").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:"))


def load(path: Path) -> dict[str, float]:
    """The whole file at once."""
    return _cost(lambda: json.loads(path.read_text("utf-8")))


def opened(path: Path) -> dict[str, float]:
    """As training opens it."""
    return _cost(lambda: read_json(path))


def _cost(call: Callable[[], Any]) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, began = megabytes("VmRSS"), time.process_time()
    kept = call()
    cpu = time.process_time() - began
    return {"cpu": cpu, "peak": megabytes("VmHWM") - before, "records": len(kept)}


class Reads(Dataset[int]):
    """Records at random, the process that read them in place of each."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def __len__(self) -> int:
        return 4000

    def __getitem__(self, index: int) -> int:
        assert self.records[random.Random(index).randrange(len(self.records))] is not None
        return os.getpid()


def work(path: Path) -> dict[str, float]:
    """The memory of two data workers, after 2,000 records each."""
    loader = DataLoader(Reads(read_json(path)), batch_size=None, num_workers=2, persistent_workers=True)
    workers = {*loader}
    return {"pss": sum(megabytes("Pss", worker, "smaps_rollup") for worker in workers)}


MEASURES = {"load": load, "open": opened, "work": work}

if __name__ == "__main__":
    main()
