"""A study's cells: an arm with a seed. What cells share is trained once, and whoever comes next finds what is done.

A stage's folder is named by recipe, data and seed, and by a digest of all that decides its weights. A cell is the last stage of
its arm, and the answers to the exam lie in that folder. Each folder has a lock, so several processes share the work.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mplug_owl.chat import ChatModel, OwlChatModel, load
from mplug_owl.data.survey import Survey
from mplug_owl.errors import UserError
from mplug_owl.eval.answer import DECODING, answer_task
from mplug_owl.eval.answers_file import AnswersFile
from mplug_owl.eval.graders.exact import ExactMatch
from mplug_owl.eval.traces import costs, traced
from mplug_owl.experiments.study import Arm, Study
from mplug_owl.train.plan import plan
from mplug_owl.train.recipe import Recipe, as_json
from mplug_owl.train.reporter import Reporter
from mplug_owl.train.resume import FREE_TO_CHANGE
from mplug_owl.train.run import open_data, train
from mplug_owl.writing import replacing, writing

TRAINED = "trained.json"
# In an exam's folder: what its answers took, where experts gave them.
CALLS = "calls.json"
# A kill costs at most so many steps.
SAVE_EVERY = 50


@dataclass(frozen=True)
class StageRun:
    """One stage of a cell, trained once for all cells that begin with it."""

    recipe: Recipe
    before: "StageRun | None"

    @cached_property
    def digest(self) -> str:
        """Twelve characters that change with anything that decides its weights; fields at their default leave no trace."""
        plain = {name: value for name, value in as_json(self.recipe).items() if name not in FREE_TO_CHANGE}
        usual = {one.name: one.default for one in Recipe.__dataclass_fields__.values()}
        values: dict[str, Any] = {name: value for name, value in plain.items() if value != usual.get(name)}
        values["modules"]["config"].pop("transformers_version", None)
        before = None if self.before is None else self.before.digest
        return hashlib.sha256(json.dumps([values, before], sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Recipe, data, seed and digest: the folder's name."""
        data = "+".join(spec.partition("@")[0].rpartition("/")[2].rpartition(":")[2] for spec in self.recipe.data)
        return f"{self.recipe.name}-{re.sub(r'[^A-Za-z0-9.+_]+', '_', data)[:40]}-seed{self.recipe.seed}-{self.digest}"


@dataclass(frozen=True)
class Cost:
    """What a stage took.

    Args:
        trainable: How many parameters learned.
        flops: Floating-point operations, forward and backward, of the tokens and pictures that it saw.
        seconds: By the clock, of steps that count; those that a kill undid are left out.
        gib: Memory in GiB, as `owl plan` estimates it.
    """

    trainable: int
    flops: float
    seconds: float
    gib: float


@dataclass(frozen=True)
class Answering:
    """What the answers in an exam's first condition took, where several experts and models had a part in them.

    Args:
        answers: How many were given.
        calls: Of experts and models, all together; what was known from an earlier answer is none.
        seconds: By the clock.
        faults: Replies of a planner that could not be followed.
    """

    answers: int
    calls: int
    seconds: float
    faults: int


@dataclass(frozen=True)
class Cell:
    """An arm with a seed: its stages in their order, in the study's folder `out`."""

    arm: Arm
    seed: int
    out: Path

    @cached_property
    def runs(self) -> tuple[StageRun, ...]:
        """The stages."""
        runs: list[StageRun] = []
        for stage in self.arm.stages:
            runs.append(StageRun(replace(stage, seed=self.seed), runs[-1] if runs else None))
        return tuple(runs)

    def next_stage(self) -> StageRun | None:
        """What to train next: the stage after the last one whose model is there. None where that is the cell's last."""
        following = None
        for run in reversed(self.runs):
            if is_trained(self.out, run):
                break
            following = run
        return following

    @property
    def folder(self) -> Path:
        """Where its answers are."""
        return self.out / (self.runs[-1].name if self.arm.stages else f"{self.arm.name}-seed{self.seed}")

    def exam_folder(self, study: Study) -> Path:
        """The exam's folder; its name changes with what is asked and with who answers."""
        titles = [condition.title for condition in study.asked_in]
        who = self.arm.name if self.arm.answers is not None else ""
        grader = getattr(study.task.grader, "name", type(study.task.grader).__name__)
        other = [grader] if grader != ExactMatch.name else []
        settings = json.dumps([study.task.name, titles, study.questions, study.exam_seed, who, *other])
        return self.folder / f"exam-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    def is_done(self, study: Study) -> bool:
        """Whether it is trained and has taken the exam."""
        return (self.exam_folder(study) / "scores.json").is_file()


def is_trained(out: Path, run: StageRun) -> bool:
    """Whether the stage's folder in the study's folder holds a finished model: weights may be deleted, scores being kept."""
    return (out / run.name / TRAINED).is_file() and (out / run.name / "model").is_dir()


def train_stage(out: Path, run: StageRun, reporter: Reporter) -> None:
    """Train a stage, or resume it after its newest checkpoint; the checkpoints go when the model is there."""
    folder = out / run.name
    with writing(folder):
        (folder / TRAINED).unlink(missing_ok=True)  # of a model that was deleted: while it is written anew it is not there
    start = str(out / run.before.name) if run.before is not None else run.recipe.init_from
    steps = run.recipe.steps or 0
    recipe = replace(run.recipe, init_from=start, save_every=max(1, min(SAVE_EVERY, steps // 4)))
    train(recipe, folder, resume=(folder / "recipe.json").exists(), reporter=reporter)
    cost = asdict(_cost(run.recipe, folder))
    with writing(folder / TRAINED), replacing(folder / TRAINED) as file:
        file.write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def take_exam(study: Study, cell: Cell) -> None:
    """Ask a trained cell the study's questions; answers.jsonl and scores.json are kept.

    An exam that was killed begins anew: which questions are answered side by side changes the rounding of scores.
    """
    folder = cell.exam_folder(study)
    shutil.rmtree(folder, ignore_errors=True)
    trained = cell.folder if cell.arm.stages else None
    model: ChatModel = cell.arm.answers(trained) if cell.arm.answers is not None else OwlChatModel(load(cell.folder))
    file = AnswersFile(folder / "answers.jsonl", study.task.name, cell.arm.name)
    asked = study.asked_in
    answers = answer_task(model, study.task, study.questions, study.exam_seed, asked, answers_file=file, decoding=DECODING)
    grades = study.task.grader.grades(answers) if study.task.grader is not None else []
    scores: dict[str, list[list[object]]] = {condition.title: [] for condition in asked}
    for grade in grades:
        question = grade.answer.question
        score = None if grade.score is None else float(grade.score)
        scores[grade.answer.condition.title].append([question.id, question.ability, question.cluster, score])
    if found := [one for _, one in traced(answer for answer in answers if answer.condition == asked[0])]:
        each = costs(found)
        took = [sum(getattr(cost, name) for cost in each) for name in ("calls", "seconds", "faults")]
        with writing(folder / CALLS), replacing(folder / CALLS) as new:
            new.write_text(json.dumps(asdict(Answering(len(found), *took))) + "\n", encoding="utf-8")
    with writing(folder / "scores.json"), replacing(folder / "scores.json") as new:
        new.write_text(json.dumps(scores) + "\n", encoding="utf-8")


def answering_of(study: Study, cells: Sequence[Cell]) -> Answering | None:
    """What the answers of one arm's cells took together, in the first condition; None where none of them has a trace."""
    files = [file for cell in cells if (file := cell.exam_folder(study) / CALLS).is_file() and cell.is_done(study)]
    each = [Answering(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    if not each:
        return None
    return Answering(*(sum(getattr(one, name) for one in each) for name in ("answers", "calls", "seconds", "faults")))


@dataclass(frozen=True)
class Scores:
    """What the cells of an arm scored in one condition.

    Args:
        seeds: Those of its cells that are done.
        rows: Id, ability, picture and score of every question, for each of them.
    """

    seeds: tuple[int, ...]
    rows: tuple[list[list[Any]], ...]

    @property
    def abilities(self) -> list[str]:
        """Those that were asked."""
        return list(dict.fromkeys(ability for _, ability, _, _ in self.rows[0]))

    def of(self, abilities: Sequence[str] = ()) -> NDArray[np.float64]:
        """The scores of these abilities together, all where none is named: [seeds, pictures].

        A picture's questions are averaged: however many there are, it counts once. Not a number where none of them has a
        score, so that columns are the same pictures in every cell.
        """
        return np.stack([_by_picture(row, abilities) for row in self.rows])


def read_scores(study: Study, arms: Mapping[str, Sequence[Cell]], title: str) -> dict[str, Scores]:
    """What each arm's cells scored that are done, in the condition of this title; no arm of which none is.

    Raises:
        UserError: A cell was asked other questions than another: they are compared question by question.
    """
    found: dict[str, Scores] = {}
    first: tuple[Cell, list[list[Any]]] | None = None
    for name, cells in arms.items():
        done = [cell for cell in cells if cell.is_done(study)]
        rows = [json.loads((cell.exam_folder(study) / "scores.json").read_text(encoding="utf-8"))[title] for cell in done]
        for cell, row in zip(done, rows, strict=True):
            first = first or (cell, row)
            if [one[:3] for one in row] != [one[:3] for one in first[1]]:
                raise UserError(
                    f"{cell.exam_folder(study)}: other questions than in {first[0].exam_folder(study)}; remove what was asked "
                    "before the task changed, and run owl ablate again"
                )
        if done:
            found[name] = Scores(tuple(cell.seed for cell in done), tuple(rows))
    return found


def cost_of(cell: Cell) -> Cost | None:
    """What a cell's stages took together, the most parameters and memory of any; None where one is not trained."""
    costs = []
    for run in cell.runs:
        file = cell.out / run.name / TRAINED
        if not file.is_file():
            return None
        costs.append(Cost(**json.loads(file.read_text(encoding="utf-8"))))
    return Cost(
        max((cost.trainable for cost in costs), default=0),
        sum(cost.flops for cost in costs),
        sum(cost.seconds for cost in costs),
        max((cost.gib for cost in costs), default=0.0),
    )


def _by_picture(rows: Sequence[Sequence[Any]], abilities: Sequence[str]) -> NDArray[np.float64]:
    """The mean score of each picture's questions, in the order in which pictures come. One without a score is left out."""
    found: dict[str, list[float]] = {}
    for _, named, cluster, score in rows:
        if not abilities or named in abilities:
            found.setdefault(cluster, []).extend([score] if score is not None else [])
    return np.array([sum(scores) / len(scores) if scores else math.nan for scores in found.values()])


def _cost(recipe: Recipe, folder: Path) -> Cost:
    """A finished stage's cost, by its metrics and its plan."""
    made = plan(recipe)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tokens = seconds = 0.0
    before = 0
    for line in lines:
        seen = line["tokens_per_step"] * (line["step"] - before)
        tokens, before = tokens + seen, line["step"]
        seconds += seen / line["tokens_per_second"] if line["tokens_per_second"] else 0.0
    pictures = made.samples_per_step * made.steps * _pictured(recipe)
    return Cost(sum(part.trainable for part in made.parts), made.flops_each(tokens, pictures), seconds, made.gib)


def _pictured(recipe: Recipe) -> float:
    """The share of samples with a picture."""
    if not recipe.encoding.pictures:
        return 0.0
    if recipe.text_share is not None:
        return 1 - recipe.text_share
    return _share_with_pictures(recipe.data, recipe.image_root)


@lru_cache
def _share_with_pictures(data: tuple[str, ...], image_root: str | None) -> float:
    sources, weights = open_data(data, image_root)
    survey = Survey(sources, weights)
    shares = [weight if weight is not None else float(size) for weight, size in zip(weights, survey.sizes, strict=True)]
    return sum(share * shown for share, shown in zip(shares, survey.pictured, strict=True)) / sum(shares)
