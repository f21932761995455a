"""What a checkpoint costs a run: the loop's stall, the write in the background, and the steps beside one.

The loop stops for a copy in memory, and for the checkpoint before where that is not written yet; the rest happens in a thread
while training goes on. `tiny` is tiny.pretrain. `language` learns all of an owl with a language model of 135 M fresh weights,
so that a checkpoint is large. One thread computes; where no second core is free, a write's CPU seconds are the run's too.

    python -m benchmarks.checkpoint [tiny | language] [--steps N] [--every N]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.command import count, machine
from benchmarks.memory import language_owl
from mplug_owl.data.survey import Survey
from mplug_owl.recipes import tiny
from mplug_owl.train import checkpoint, loop
from mplug_owl.train.recipe import Recipe, Trainable
from mplug_owl.train.run import initial_model, open_data

# Of a step's time, at the recipe's own `save_every`.
BAR = 0.01
# Steps, and steps from one checkpoint to the next.
USUAL = {"tiny": (40, 10), "language": (12, 4)}


@dataclass(frozen=True)
class Taken:
    """When something began and ended, in seconds of the clock, and the CPU seconds of its thread."""

    began: float
    ended: float
    cpu: float

    @property
    def seconds(self) -> float:
        """By the clock."""
        return self.ended - self.began

    def overlaps(self, other: "Taken") -> bool:
        """Whether both were at work at once."""
        return self.began < other.ended and other.began < self.ended


@dataclass
class Costs:
    """Everything timed in a run. `bytes` is what one checkpoint has on the disk."""

    steps: list[Taken] = field(default_factory=list)
    stalls: list[Taken] = field(default_factory=list)
    writes: list[Taken] = field(default_factory=list)
    bytes: int = 0

    def lines(self, save_every: int) -> list[str]:
        """What is said of it, the share for a run that saves every so many steps."""
        steps, longest = self.steps[1:], max(taken.seconds for taken in self.stalls)  # the first step makes kernels
        beside = [taken for taken in steps if any(map(taken.overlaps, self.writes))]
        alone = [taken for taken in steps if taken not in beside]
        stall, write, step = (median(taken.seconds for taken in many) for many in (self.stalls, self.writes, alone))
        computed = median(taken.cpu for taken in self.writes)
        share, all_of_it = stall / (save_every * step), (stall + computed) / (save_every * step)
        return [
            f"{len(self.stalls)} checkpoints of {self.bytes / 1e6:,.1f} MB; {len(alone)} steps alone, {len(beside)} beside one",
            f"the loop stalls for {stall * 1e3:.1f} ms, at worst {longest * 1e3:.1f}; a step takes {step * 1e3:.0f} ms",
            f"written in the background in {write * 1e3:.0f} ms, {computed * 1e3:.0f} of them CPU",
            *([f"a step beside a write takes {median(t.seconds for t in beside) / step:.2f} of one alone"] if beside else []),
            f"stalled every {save_every} steps: {share:.3%} of the time (bar {BAR:.0%}); {all_of_it:.3%} where no core is free",
        ]


def timed(kept: list[Taken], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its times kept."""

    def run(*arguments: Any, **options: Any) -> Any:
        began, cpu = time.perf_counter(), time.thread_time()
        found = function(*arguments, **options)
        kept.append(Taken(began, time.perf_counter(), time.thread_time() - cpu))
        return found

    return run


def measure(recipe: Recipe, language: bool) -> Costs:
    """A run whose steps, stalls and writes are timed."""
    survey, costs = Survey(*open_data(recipe.data)), Costs()
    owl = language_owl() if language else initial_model(recipe, survey)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(loop, "take_step", timed(costs.steps, loop.take_step)),
        patch.object(loop, "save", timed(costs.stalls, loop.save)),
        patch.object(checkpoint, "write", timed(costs.writes, checkpoint.write)),
    ):
        loop.fit(recipe, owl, survey, Path(folder) / "run")
        newest, _ = checkpoint.newest(Path(folder) / "run" / "checkpoints")
        costs.bytes = sum(file.stat().st_size for file in newest.folder.iterdir()) if newest else 0
    return costs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=USUAL, default="tiny")
    parser.add_argument("--steps", type=count)
    parser.add_argument("--every", type=count)
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps, every = given.steps or USUAL[given.what][0], given.every or USUAL[given.what][1]
    if not 1 < every <= steps:
        parser.error(f"--every {every}, expected 2 to {steps}, the steps: some are timed beside a checkpoint and some alone")
    usual = tiny.pretrain()
    recipe = replace(usual, name="checkpoint", steps=steps, save_every=every, threads=1)
    if given.what == "language":
        recipe = replace(recipe, trainable=Trainable("full", "full", "full"), batch=4, micro_batch=4)
    print(f"{machine()}; {given.what}", flush=True)
    print("\n".join(measure(recipe, given.what == "language").lines(usual.save_every or 1)))


if __name__ == "__main__":
    main()
