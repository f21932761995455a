"""CPU seconds of a training step of the tiny owl, beside those of another checkout: the loop's own steps, drawing included.

A step is what `fit` does from one to the next: samples are drawn and encoded, forward, backward, gradients clipped, optimiser.
`--against PATH` is a checkout of another commit. Each side trains in a process of its own, on one thread, from the same
weights through the same samples, and they take a step in turn. The first ones are not counted.

    python -m benchmarks.tiny --against PATH [--recipe tiny.pretrain] [--repeats 40] [--set FIELD=VALUE]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.beside import ROOT, of_checkout
from benchmarks.command import checkout, count, machine, run
from mplug_owl.data.loader import step_loader
from mplug_owl.data.survey import Survey
from mplug_owl.recipes import tiny
from mplug_owl.train.loop import take_step
from mplug_owl.train.recipe import Recipe, override
from mplug_owl.train.reporter import Silent
from mplug_owl.train.run import initial_model, open_data
from mplug_owl.train.session import open_session

BAR = 0.75
UNCOUNTED = 3
RECIPES = {"tiny.pretrain": tiny.pretrain, "tiny.instruct": tiny.instruct}


def steps(recipe: Recipe, folder: Path) -> None:
    """A step for each line of input; its CPU seconds, wall seconds, loss and gradient norm are a line of output."""
    survey = Survey(*open_data(recipe.data))
    with open_session(recipe, initial_model(recipe, survey), survey, folder, False, Silent(), None) as run:
        made = step_loader(run.dataset, run.first_step, run.steps, 0)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            number, data = next(made)
            step = take_step(run, number, data)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall, step.loss, step.norm]), flush=True)


def compare(checkouts: dict[str, Path], name: str, settings: list[str], repeats: int) -> dict[str, list[list[float]]]:
    """Lines of both sides, in turn."""
    command = [sys.executable, __file__, "--recipe", name, "--repeats", str(repeats), "--lines"]
    command += [word for setting in settings for word in ("--set", setting)]
    with ExitStack() as stack:
        processes = {side: stack.enter_context(of_checkout(command, where)) for side, where in checkouts.items()}
        lines: dict[str, list[list[float]]] = {side: [] for side in processes}
        for repeat in range(UNCOUNTED + repeats):
            for side, process in processes.items():
                line = process.ask("step")
                lines[side] += [line] if repeat >= UNCOUNTED else []
    return lines


def report(name: str, lines: dict[str, list[list[float]]]) -> None:
    """What a step costs on both sides, by minimum, median and median of pairs, and how far their losses are apart."""
    for column, kind in enumerate(("CPU", "wall")):
        before, now = ([line[column] for line in lines[side]] for side in ("before", "now"))
        print(
            f"{name}, {kind} seconds a step: minimum {min(before):.3f} before, {min(now):.3f} now, "
            f"{min(now) / min(before):.3f}; median {statistics.median(before):.3f}, {statistics.median(now):.3f}, "
            f"{statistics.median(now) / statistics.median(before):.3f}; "
            f"median of pairs {statistics.median(ours / theirs for theirs, ours in zip(before, now, strict=True)):.3f}"
            + (f" (bar {BAR})" if kind == "CPU" else "")
        )
    for column, kind in ((2, "loss"), (3, "norm of the gradient")):
        pairs = [(theirs[column], ours[column]) for theirs, ours in zip(lines["before"], lines["now"], strict=True)]
        mean = abs(sum(ours for _, ours in pairs) / sum(theirs for theirs, _ in pairs) - 1)
        print(
            f"{name}, {kind}: {mean:.2%} apart on average, at most {max(abs(ours / theirs - 1) for theirs, ours in pairs):.2%}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=checkout)
    parser.add_argument("--recipe", choices=RECIPES)
    parser.add_argument("--repeats", type=count, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    settings = [f"steps={UNCOUNTED + given.repeats + 1}", "save_every=none", *given.set]
    names = [given.recipe] if given.recipe else list(RECIPES)
    recipes = {name: replace(override(RECIPES[name](), settings), workers=0) for name in names}
    if given.lines:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            steps(recipes[given.recipe], Path(folder))
        return
    if given.against is None:
        parser.error("--against PATH: a checkout of the commit to compare with")
    print(f"{machine()}; torch {torch.__version__}, one thread, {given.repeats} pairs of steps")
    for name in recipes:
        checkouts = {"before": given.against, "now": ROOT}
        report(name, compare(checkouts, name, given.set, given.repeats))


if __name__ == "__main__":
    run(main)
