"""The short benchmarks one after the other, a line each: figure, bar, reached or missed, machine. `make bench` runs it.

python -m benchmarks.short [NAME ...]
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.command import machine


@dataclass(frozen=True)
class Short:
    """A benchmark with a setting that takes some minute: its command, and the figure in what it prints.

    `pattern` has one group, the figure; `at_most` says which side of `bar` is good.
    """

    name: str
    command: tuple[str, ...]
    pattern: str
    bar: float
    at_most: bool = True

    def line(self, printed: str) -> str:
        """What is said of it. Raises ValueError where its figure is not in what it printed."""
        found = re.search(self.pattern, printed, re.MULTILINE)
        if found is None:
            raise ValueError(f"{self.name}: no figure like {self.pattern!r} in what {self.command[0]} printed")
        figure = float(found[1].replace(",", ""))
        reached = figure <= self.bar if self.at_most else figure >= self.bar
        side = "at most" if self.at_most else "at least"
        return f"{self.name}: {figure:g}, {side} {self.bar:g}: {'reached' if reached else 'missed'}"


FIRST_STEP = ("benchmarks.order", "--steps", "0")
BIG_JSON = ("benchmarks.big_json", "--megabytes", "100")
PACKING = ("benchmarks.packing", "--steps", "2")
LIMITS = ("benchmarks.against", "--sections", "stage1", "lora", "words1", "--repeats", "2")
WORDS = ("benchmarks.words", "--rows", "1", "--repeats", "1", "--ways", "fp32", "bf16 packed", "int8")
SHORT = (
    Short("import mplug_owl, CPU s", ("benchmarks.start", "--repeats", "3"), r"^import mplug_owl: ([\d.]+)", 2.5),
    Short("owl chat owl-tiny, CPU s", ("benchmarks.start", "--repeats", "3"), r"^owl chat: ([\d.]+)", 4.0),
    Short(
        "second question's wait, share of the first's", ("benchmarks.chat", "--repeats", "2"), r"wall: .* share ([\d.]+)", 0.3
    ),
    Short(
        "an answer of owl-tiny, s",
        ("benchmarks.scenes", "--scenes", "300", "--answers", "10"),
        r"^whole answer after ([\d.]+)",
        0.1,
    ),
    Short("step 500,000 of LAION-400M in blocks, ms", FIRST_STEP, r"LAION-400M, blocks: (\d+) ms", 50),
    Short("step 500,000 of six sources of 150,000, ms", FIRST_STEP, r"six of 150,000, .*: (\d+) ms", 50),
    Short("step 500,000 of six sources of 1,000,000, ms", FIRST_STEP, r"six of 1,000,000: (\d+) ms", 50),
    Short("a JSON list of 100 MB opened, MB above the empty process", BIG_JSON, r"^first opening: .* peak ([\d,]+) MB", 150),
    Short("captions packed, times the samples a second", PACKING, r"^packed over padded to 512: ([\d.]+)", 3, at_most=False),
    Short("the same, losses apart", PACKING, r"^losses differ by ([\d.e+-]+)", 1e-5),
    Short(
        "LAION-400M on 64 GPUs in blocks, simulated samples a request",
        ("benchmarks.laion", "--steps", "60", "--random-steps", "2"),
        r"^blocks, tables known +([\d.]+)",
        50,
        at_most=False,
    ),
    Short(
        "pictures a second prepared by one core",
        ("benchmarks.data", "--pictures", "640", "--steps", "3"),
        r"^(\d+) pictures/s .*, whole",
        250,
        at_most=False,
    ),
    Short(
        "a store that answers after 50 ms, samples a request in blocks",
        ("benchmarks.object_store", "--shards", "2", "--steps", "16", "--batch", "32", "--step", "0.2"),
        r"^blocks +0 +1 / +([\d.]+)",
        50,
        at_most=False,
    ),
    Short(
        "first step from 2,000 shards with stats, s",
        ("benchmarks.shards", "--shards", "2000", "--samples", "10"),
        r", stats: first step after ([\d.]+)",
        60,
    ),
    Short(
        "memory of 150 steps of ever-new lengths, last third's growth in percent",
        ("benchmarks.memory", "tiny", "--batch", "1", "--steps", "150"),
        r"^last third of 150 steps: \+?(-?[\d.]+)%",
        2,
    ),
    Short("stage-1 step in fp32, times its products alone", LIMITS, r"^stage1:[\s\S]*?ours / limit ([\d.]+)", 1.08),
    Short("LoRA step in fp32, times its products alone", LIMITS, r"^lora:[\s\S]*?ours / limit ([\d.]+)", 0.97),
    Short("64 words in fp32, times their products alone", LIMITS, r"^words1:[\s\S]*?ours / limit ([\d.]+)", 1.12),
    Short("64 words in bf16, share of fp32's time", WORDS, r"words, bf16 packed: .*, ([\d.]+) of fp32", 0.6),
    Short("64 words in int8, share of fp32's time", WORDS, r"words, int8: .*, ([\d.]+) of fp32", 0.5),
    Short(
        "checkpoints of tiny.pretrain, percent of the time that they stop it",
        ("benchmarks.checkpoint", "tiny", "--steps", "9", "--every", "3"),
        r"^stalled every \d+ steps: ([\d.]+)%",
        1,
    ),
)


def main(names: list[str]) -> int:
    """Run them, or those whose module is named; a command that several figures come from is run once. 1 where one failed."""
    printed: dict[tuple[str, ...], str | None] = {}
    where, failed = machine(), False
    for short in SHORT:
        if names and short.command[0].removeprefix("benchmarks.") not in names:
            continue
        if short.command not in printed:
            done = subprocess.run([sys.executable, "-m", *short.command], capture_output=True, text=True)
            printed[short.command] = done.stdout if done.returncode == 0 else None
            if done.returncode:
                print(f"{' '.join(short.command)}: failed: {(done.stderr.strip() or 'no word').splitlines()[-1]}", flush=True)
        output = printed[short.command]
        failed |= output is None
        if output is not None:
            try:
                print(f"{short.line(output)}; {where}", flush=True)
            except ValueError as error:
                failed = True
                print(error, flush=True)
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a benchmark; all by default")
    given = parser.parse_args().names
    if unknown := set(given) - {short.command[0].removeprefix("benchmarks.") for short in SHORT}:
        parser.error(f"no short benchmark {', '.join(sorted(unknown))}")
    sys.exit(main(given))
