"""The demo's timetable: how many steps of its two stages fit into a number of minutes on this machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from mplug_owl.train.recipe import Recipe
from mplug_owl.train.reporter import Progress, Silent
from mplug_owl.train.run import train

# Steps of each stage. Stage 2 learns little more after sixty, stage 1 does (docs/journal.md, 2026-11-25).
STEPS = {"pretrain": 540, "instruct": 60}
# With fewer there is hardly anything to show.
FEWEST = {"pretrain": 120, "instruct": 30}
# A step of stage 2 takes as long as so many of stage 1, where it was not timed.
SLOWER = 2.9
# Steps that are timed. The first is slow, and the better number of threads is among the others.
TIMED = 7
# Seconds around a stage: its model is loaded, saved, examined and shown.
AROUND = 8.0


@dataclass
class Timetable:
    """Steps of each stage, seconds a step where they were timed, and when all should end by `time.perf_counter`."""

    steps: dict[str, int]
    pace: Mapping[str, float] | None = None
    ends: float | None = None

    def steps_of(self, run: str) -> int:
        """Steps of a stage that begins now. The last one takes what time the first has left."""
        if run == "instruct" and self.pace is not None and self.ends is not None:
            seconds = self.ends - time.perf_counter() - AROUND
            self.steps[run] = max(FEWEST[run], min(self.steps[run], round(seconds / self.pace[run])))
        return self.steps[run]

    def later(self, run: str) -> float:
        """What comes after a stage, in steps of that stage."""
        slower = SLOWER if self.pace is None else self.pace["instruct"] / self.pace["pretrain"]
        return slower * self.steps["instruct"] if run == "pretrain" else 0.0


def usual(share: float = 1.0) -> Timetable:
    """A share of the usual steps."""
    return Timetable({run: max(2, round(steps * share)) for run, steps in STEPS.items()})


def fitted(recipes: Mapping[str, Recipe], ends: float, say: Callable[[str], None]) -> Timetable:
    """The timetable of a demo that ends by then: times a few steps of each stage.

    Args:
        recipes: of the two stages. None gets more steps than its recipe has.
        ends: by the clock of `time.perf_counter`.
        say: called with what was found.
    """
    pace = {run: seconds_per_step(recipe) for run, recipe in recipes.items()}
    seconds = ends - time.perf_counter() - 2 * AROUND
    steps = steps_within(seconds, pace, {run: recipe.steps or STEPS[run] for run, recipe in recipes.items()})
    needed = sum(steps[run] * pace[run] for run in steps)
    if needed > 1.1 * max(0.0, seconds):
        say(f"Too little time for this machine: the fewest steps that teach something take {needed / 60:.1f} minutes.")
    say(
        f"{steps['pretrain']} steps of stage 1, {pace['pretrain']:.2f} seconds each here, "
        f"and {steps['instruct']} of stage 2, {pace['instruct']:.2f} seconds each."
    )
    return Timetable(steps, pace, ends)


def steps_within(seconds: float, pace: Mapping[str, float], most: Mapping[str, int]) -> dict[str, int]:
    """Steps of each stage that take so many seconds together, shared out as in `STEPS`.

    Args:
        seconds: for training alone.
        pace: seconds a step of each stage.
        most: steps that a stage has at most.
    """
    share = seconds / sum(STEPS[run] * pace[run] for run in STEPS)
    return {run: max(FEWEST[run], min(round(STEPS[run] * share), most[run])) for run in STEPS}


def seconds_per_step(recipe: Recipe) -> float:
    """What a step of a recipe takes here, by the faster half of a short run."""
    watch = _StopWatch()
    with TemporaryDirectory() as folder:
        train(replace(recipe, steps=TIMED, log_every=1, save_every=None), Path(folder) / "timing", reporter=watch)
    faster = sorted(later - earlier for earlier, later in pairwise(watch.times))[: TIMED // 2]
    return sum(faster) / len(faster)


class _StopWatch(Silent):
    """When each step was reported."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def progress(self, progress: Progress) -> None:
        """Another step is done."""
        self.times.append(time.perf_counter())
