"""What a study will cost, and what it can show: printed by `owl ablate STUDY --plan` before a night is spent on it."""

import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mplug_owl.experiments.ablation_report import steps_of
from mplug_owl.experiments.cells import Cell, StageRun, is_trained, read_scores
from mplug_owl.experiments.effects import detectable, seed_means
from mplug_owl.experiments.minutes import seconds_per_step
from mplug_owl.experiments.study import Arm, Study
from mplug_owl.train.plan import Plan, plan
from mplug_owl.train.recipe import Recipe

MINUTES, QUICK_QUESTIONS = 30, 20
# Seconds around a stage: building or loading, saving, and the exam after it.
AROUND = 14.0
# Assumed where no cells are there to measure them: a run's score under other seeds, and a difference at one question.
SEED_DEVIATION, QUESTION_DEVIATION = 0.02, 0.6


def distinct_runs(study: Study, out: Path, seeds: Sequence[int]) -> dict[str, StageRun]:
    """Every stage that a study trains, by its folder's name: what arms share is there once."""
    return {run.name: run for seed in seeds for arm in study.arms for run in Cell(arm, seed, out).runs}


def quick_share(study: Study, console: Console) -> float:
    """The share of a study's steps with one seed that takes 30 minutes here, by a few timed steps of the reference arm."""
    ends = time.perf_counter() + 60 * MINUTES
    pace = Pace(study)
    runs = distinct_runs(study, Path(), (0,))
    whole = sum(pace.seconds(run.recipe) for run in runs.values())
    left = ends - time.perf_counter() - AROUND * (len(runs) + len(study.arms)) / 2
    share = max(0.001, min(1.0, left / max(whole, 1e-9)))
    console.print(f"quick: {share:.1%} of the usual steps, one seed. Its figures are not to be believed.", highlight=False)
    return share


class Pace:
    """Seconds that stages take on this machine, from a few timed steps of the reference arm's stages and FLOPs."""

    def __init__(self, study: Study) -> None:
        self.rates: dict[str, float] = {}
        self.plans: dict[str, Plan] = {}
        for stage in study.arm(study.compared_with).stages or next((arm.stages for arm in study.arms if arm.stages), ()):
            seconds = seconds_per_step(stage)
            self.rates.setdefault(stage.trainable.language, seconds / _flops_per_step(self.plan(stage)))

    def plan(self, recipe: Recipe) -> Plan:
        """The recipe's plan, made once: seeds and steps change neither parameters nor FLOPs a step."""
        key = repr([getattr(recipe, one.name) for one in fields(recipe) if one.name not in ("seed", "steps", "schedule")])
        if key not in self.plans:
            self.plans[key] = plan(recipe)
        return self.plans[key]

    def seconds(self, recipe: Recipe) -> float:
        """What a stage's steps take."""
        rate = self.rates.get(recipe.trainable.language, max(self.rates.values(), default=0.0))
        return rate * _flops_per_step(self.plan(recipe)) * (recipe.steps or 0)


def show_plan(study: Study, out: Path, seeds: int, console: Console) -> None:
    """Print what each arm and all together cost, and which difference seeds and questions can show."""
    console.print("timing a few steps of each stage …", highlight=False)
    pace = Pace(study)
    table = Table(title=escape(f"{study.name}: {study.words}"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("arm", "steps"):
        table.add_column(name, overflow="fold")
    for name in ("learned", "FLOPs", "minutes", "GiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in study.arms:
        table.add_row(*_costs(arm, pace))
    console.print(table)
    runs = distinct_runs(study, out.resolve(), range(seeds))
    cells = [Cell(arm, seed, out.resolve()) for arm in study.arms for seed in range(seeds)]
    needed = {run.name for cell in cells if not cell.is_done(study) for run in cell.runs}
    left = [run for name, run in runs.items() if name in needed and not is_trained(out, run)]
    hours = sum(pace.seconds(run.recipe) + AROUND for run in left) / 3600
    console.print(
        f"{len(study.arms)} arms x {seeds} seeds, {len(runs)} stages to train, for what arms share is trained once; "
        f"{len(left)} are left: {hours:.1f} hours of one process, {hours / 2:.1f} of two on two idle cores. "
        "FLOPs and memory are upper bounds: every sample full.",
        highlight=False,
    )
    _show_power(study, out, seeds, console)


def _costs(arm: Arm, pace: Pace) -> tuple[str, ...]:
    plans = [pace.plan(stage) for stage in arm.stages]
    steps = [stage.steps or 0 for stage in arm.stages]
    flops = sum(_flops_per_step(made) * count for made, count in zip(plans, steps, strict=True))
    return (
        arm.name,
        steps_of(arm),
        f"{max((sum(part.trainable for part in made.parts) for made in plans), default=0):,}",
        f"{flops:.1e}",
        f"{sum(map(pace.seconds, arm.stages)) / 60:.0f}",
        f"{max((made.gib for made in plans), default=0.0):.2f}",
    )


def _show_power(study: Study, out: Path, seeds: int, console: Console) -> None:
    """The difference that a comparison finds in 8 of 10 tries, for several numbers of seeds and questions."""
    of_seeds, of_questions, measured = _deviations(study, out, seeds)
    questions = study.task.questions(study.asked_in[0].split, study.questions, study.exam_seed)
    asked = len({one.cluster for one in questions})  # those about one picture share its difficulty, and count as one
    table = Table(title="a difference found in 8 of 10 tries, in points", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("questions" if asked == len(questions) else "pictures")
    numbers = sorted({3, 5, 10, max(seeds, 2)})
    for number in numbers:
        table.add_column(f"{number} seeds", justify="right")
    for count in sorted({max(asked // 4, 1), asked, 4 * asked}):
        row = [f"{100 * detectable(number, count, of_seeds, of_questions):.1f}" for number in numbers]
        table.add_row(f"{count:,}" + (" (this study)" if count == asked else ""), *row)
    console.print(table)
    console.print(
        f"for seeds that differ by {100 * of_seeds:.1f} points and questions by {100 * of_questions:.0f}, standard deviations "
        + ("measured on this folder's cells" if measured else "assumed until two seeds are done"),
        highlight=False,
    )


def _deviations(study: Study, out: Path, seeds: int) -> tuple[float, float, bool]:
    """Standard deviations of a run's score under other seeds, and of a difference at one question; whether measured."""
    title = study.asked_in[0].title
    found = read_scores(study, {arm.name: [Cell(arm, seed, out) for seed in range(seeds)] for arm in study.arms}, title)
    scores = {name: one.of() for name, one in found.items() if len(seed_means(one.of())) > 1}
    reference = scores.get(study.compared_with)
    if reference is None or len(scores) < 2:
        return SEED_DEVIATION, QUESTION_DEVIATION, False
    of_seeds = np.sqrt(np.mean([np.var(seed_means(one), ddof=1) for one in scores.values()]))
    others = [one for name, one in scores.items() if name != study.compared_with]
    apart = [one.mean(axis=0) - reference.mean(axis=0) for one in others]
    of_questions = np.sqrt(np.mean([np.nanvar(each, ddof=1) for each in apart]))
    return float(of_seeds), float(of_questions), True


def _flops_per_step(made: Plan) -> float:
    return made.flops_per_sample * made.samples_per_step
