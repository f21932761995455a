"""`owl ablate`: a study's cells are trained and examined, whoever shares the work, and end in a table, a figure and a page."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from mplug_owl.errors import UserError
from mplug_owl.eval.extra import needs
from mplug_owl.experiments import ablation_report
from mplug_owl.experiments.ablation_plan import QUICK_QUESTIONS, quick_share
from mplug_owl.experiments.cells import Cell, is_trained, take_exam, train_stage
from mplug_owl.experiments.demo import one_thread
from mplug_owl.experiments.findings import Findings, gather
from mplug_owl.experiments.study import Arm, Study, scaled
from mplug_owl.train.reporter import Screen
from mplug_owl.train.trainable import Part
from mplug_owl.writing import locked, replacing, writing

SETTINGS, SEEDS = "study.json", 3
# Seconds between two looks at what other processes have done.
PAUSE = 5.0


@dataclass(frozen=True)
class Settings:
    """What a study's folder says of itself: whoever joins or resumes the study takes these."""

    study: str
    share: float
    quick: bool


def ablate(
    study: Study,
    out: Path,
    seeds: int | None = None,
    share: float | None = None,
    quick: bool = False,
    console: Console | None = None,
    arms: Sequence[str] = (),
    reuse: Path | None = None,
) -> Findings:
    """Run what is missing of a study into its folder and write its report there.

    Over 40 lines with its arguments.

    Args:
        study: Arms and exam.
        out: The study's folder. A second process with the same folder shares the work; after a kill it resumes.
        seeds: How many, counted from 0; three where None. More may be asked for later.
        share: Of the study's usual steps; None takes what the folder began with, and all of them where it is new.
        quick: Fit one seed into 30 minutes on this machine: a try of the study, whose figures are not to be believed.
        console: Where progress is printed.
        arms: Train and examine these alone; all of them where empty. The report has a row for each arm all the same.
        reuse: Another study's folder. A stage that both have is copied from there, where it is finished.

    Raises:
        UserError: The folder holds another study, or this one in another length; the study has no such arm.
        Interrupted: The run was asked to stop, and did after a checkpoint.
    """
    console = console or Console(highlight=False)
    with needs("scipy"):
        import scipy.special  # noqa: F401  (before a night of training, not after it)
    _chosen(study, arms)  # what is asked for is checked before the folder begins: it keeps the length of its first run
    _check_abilities(study)
    if reuse is not None and read_settings(reuse) is None:
        raise UserError(f"{reuse}: holds no study; --reuse takes the folder of one that owl ablate has begun")
    settings = _settings(study, out.resolve(), share, quick, console)
    made, numbers = as_run(study, settings), range(1 if quick else seeds or SEEDS)
    cells = [Cell(arm, seed, out.resolve()) for seed in numbers for arm in _chosen(made, arms)]
    if reuse is not None:
        _reuse(cells, reuse, console)
    for cell in _work(made, cells, console):
        console.print(f"{cell.arm.name}, seed {cell.seed}: done", highlight=False)
    return report(study, out, seeds, console)


def report(study: Study, out: Path, seeds: int | None = None, console: Console | None = None) -> Findings:
    """Write the report of what is done in a study's folder, and train nothing.

    Args:
        study: As it was when the folder began.
        out: The study's folder.
        seeds: How many it is about; where None as many as there are, three at least.
        console: Where tables are printed.

    Raises:
        UserError: The folder holds no study, or another one.
    """
    settings = read_settings(out)
    if settings is None:
        raise UserError(
            f"{out}: holds no study; begin {study.name} by owl ablate without --report, or name its folder by --out"
        )
    if settings.study != study.name:
        raise UserError(f"{out}: holds the study {settings.study}, not {study.name}; give another --out")
    made = as_run(study, settings)
    numbers = range(1 if settings.quick else seeds or _done(made, out.resolve()))
    found = gather(made, out.resolve(), numbers, settings.share, settings.quick)
    ablation_report.write(found, out, console or Console(highlight=False))
    return found


class _Brief(Screen):
    """A run's screen without the table of who learns: a study has dozens of runs."""

    def start(self, name: str, parts: Sequence[Part]) -> None:
        """Only remember the name."""
        self._name = name


def as_run(study: Study, settings: Settings) -> Study:
    """The study in the length that its folder says."""
    shorter = scaled(study, settings.share) if settings.share != 1 else study
    return replace(shorter, questions=min(study.questions, QUICK_QUESTIONS)) if settings.quick else shorter


def read_settings(out: Path) -> Settings | None:
    """What a study's folder says of itself, None where there is none. Raises UserError where it is damaged."""
    file = out / SETTINGS
    if not file.is_file():
        return None
    try:
        return Settings(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); expected what owl ablate writes") from error


def _done(study: Study, out: Path) -> int:
    """How many seeds there are, three at least."""
    seeds = SEEDS
    while any(Cell(arm, seeds, out).is_done(study) for arm in study.arms):
        seeds += 1
    return seeds


def _settings(study: Study, out: Path, share: float | None, quick: bool, console: Console) -> Settings:
    """Those of the folder, or new ones that are written there."""
    saved = read_settings(out)
    if saved is not None:
        for name, there, now in (("study", saved.study, study.name), ("quick", saved.quick, quick)):
            if there != now:
                raise UserError(f"{out}: holds another study, {name} {there} there and {now} now; give another --out")
        if share is not None and share != saved.share:
            raise UserError(f"{out}: has {saved.share:g} of the usual steps, not {share:g}; give another --out")
        if saved.share != 1 and not quick:
            console.print(f"{out} has {saved.share:g} of the usual steps, as it began", markup=False, soft_wrap=True)
        return saved
    if quick:
        share = quick_share(study, console)
    made = Settings(study.name, 1.0 if share is None else share, quick)
    with writing(out / SETTINGS):
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / SETTINGS) as file:
            file.write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    return made


def _check_abilities(study: Study) -> None:
    """Raises UserError where a claim is about an ability that the exam does not ask: not after a night of training."""
    for claim in study.claims:
        if claim.abilities:
            split = next(condition.split for condition in study.asked_in if condition.title == claim.condition)
            asked = dict.fromkeys(one.ability for one in study.task.questions(split, study.questions, study.exam_seed))
            if unknown := [name for name in claim.abilities if name not in asked]:
                raise UserError(
                    f"study {study.name}: claims something of the ability {unknown[0]!r}; {study.task.name} has "
                    f"{', '.join(asked)}"
                )


def _chosen(study: Study, names: Sequence[str]) -> list[Arm]:
    """The arms of these names in this order, all where there is none. Raises UserError for a name that no arm has."""
    known = {arm.name: arm for arm in study.arms}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"study {study.name}: has no arm {', '.join(unknown)}; it has {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(study.arms)


def _reuse(cells: Sequence[Cell], there: Path, console: Console) -> None:
    """Copy finished stages from another study's folder, without their exams."""
    for name, run in {run.name: run for cell in cells for run in cell.runs}.items():
        folder = cells[0].out / name
        if not is_trained(there, run):
            continue
        with _held(folder) as mine:  # else somebody trains it
            if mine and not is_trained(cells[0].out, run):
                with writing(folder), replacing(folder) as copy:
                    shutil.copytree(there / name, copy, ignore=shutil.ignore_patterns("exam-*"))
                    for exam in folder.glob("exam-*"):  # of a model that was deleted since
                        shutil.copytree(exam, copy / exam.name)
                console.print(f"{name}: trained already, in {there}", highlight=False, markup=False)


def _work(study: Study, cells: Sequence[Cell], console: Console) -> Iterator[Cell]:
    """Do what nobody has done or is doing, cell by cell, until all are done; yields each cell that is finished here."""
    left, waits = [cell for cell in cells if not cell.is_done(study)], False
    console.print(f"{study.name}: {len(left)} of {len(cells)} cells are left to do", highlight=False)
    while left:
        advanced = False
        for cell in list(left):
            mine = False
            while not cell.is_done(study) and _advance(study, cell, console):
                advanced = mine = True
            if cell.is_done(study):
                left.remove(cell)
                advanced = True
            if mine and cell.is_done(study):
                yield cell
        if not advanced:
            if not waits:
                console.print(f"waiting for other processes, at {left[0].arm.name}, seed {left[0].seed}", highlight=False)
            waits = True
            time.sleep(PAUSE)


def _advance(study: Study, cell: Cell, console: Console) -> bool:
    """Train a cell's next stage, or let it take the exam after the last one; False where another process is at that."""
    run = cell.next_stage()
    folder = cell.out / run.name if run is not None else cell.folder
    try:
        with _held(folder) as mine:
            if mine and run is None:
                if not cell.is_done(study):
                    with one_thread():
                        take_exam(study, cell)
            elif mine and run is not None and not is_trained(cell.out, run):
                console.print(f"\n{cell.arm.name}, seed {cell.seed}: {run.recipe.name}", highlight=False, markup=False)
                train_stage(cell.out, run, _Brief(console))
            return mine
    except UserError as error:
        raise UserError(f"arm {cell.arm.name}, seed {cell.seed}: {error}") from error


def _held(folder: Path) -> AbstractContextManager[bool]:
    """Whether nobody else is at this folder; if so, nobody is until the block ends. Raises WriteError where none can be had."""
    return locked(folder.with_name(f".{folder.name}.lock"))
