"""A study: named arms, each a few stages of training, and what the paper found between them. One frozen value, as a recipe is.

study = Study("mine", "Does my connector see more?", arms=(Arm("theirs", "...", (stage1, stage2)), Arm("mine", "...", (...))))
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mplug_owl.chat import ChatModel
from mplug_owl.errors import UserError
from mplug_owl.eval.task import Condition, Task
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.recipes import check_sizes, made_by
from mplug_owl.train.recipe import Recipe

STUDIES = {
    "training": "studies:training",
    "data": "studies:data",
    "paradigms": "paradigms:paradigms",
    "smol": "smol_study:smol_study",
}
NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
# With fewer steps than this a stage has no shape: warm-up, then down.
FEWEST_STEPS = 2


@dataclass(frozen=True)
class Arm:
    """One row of a study: what is trained, stage after stage.

    Args:
        name: What tables call it; lower case, without spaces.
        words: A sentence: what it is.
        stages: Recipes in their order. Each is initialised from the one before, the first as its recipe says.
        answers: Makes whoever answers the exam of the last stage's folder, None where there are no stages. None loads the
            trained owl.
    """

    name: str
    words: str
    stages: tuple[Recipe, ...] = ()
    answers: Callable[[Path | None], ChatModel] | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"arm {self.name!r}: a name has lower-case letters, digits and . + _ - only")
        if not self.stages and self.answers is None:
            raise UserError(f"arm {self.name}: has no stages and nobody who answers; give one of the two")
        if self.answers is not None and not callable(self.answers):
            raise UserError(f"arm {self.name}: answers is a {type(self.answers).__name__}; expected a function that makes one")
        for stage in self.stages:
            if Path(stage.name).name != stage.name:
                raise UserError(f"arm {self.name}: a stage is called {stage.name!r}; it names a folder, so leave out the slash")
            if stage.steps is None:
                raise UserError(f"arm {self.name}: {stage.name} counts epochs; a study needs steps")


@dataclass(frozen=True)
class Claim:
    """A finding that a study tries: `better` has more correct answers than `worse`, by at least so many points.

    Args:
        words: The finding in the words of whoever claims it.
        better: An arm's name.
        worse: Another one's.
        condition: The title of the condition that it is about.
        abilities: Those that it is about; all where empty.
        points: By how many percentage points at least.
    """

    words: str
    better: str
    worse: str
    condition: str = "with the picture"
    abilities: tuple[str, ...] = ()
    points: float = 0.0


@dataclass(frozen=True)
class Study:
    """Everything about a study but its seeds.

    Args:
        name: What folders and tables call it.
        words: The question that it asks.
        arms: Its rows.
        reference: The arm that all others are compared with; the last one where empty.
        claims: Findings that it tries.
        task: The exam that every cell takes.
        conditions: The titles of the conditions asked, all of the task's where empty. The first one is what the study is about.
        questions: How many an ability, in each condition.
        exam_seed: That of the questions, the same in every cell.
        notes: Sentences that its tables need to be understood.
    """

    name: str
    words: str
    arms: tuple[Arm, ...]
    reference: str = ""
    claims: tuple[Claim, ...] = ()
    task: Task = field(default_factory=DrawnWorld)
    conditions: tuple[str, ...] = ("with the picture", "without", "told in words", "unseen combinations")
    questions: int = 100
    exam_seed: int = 20_230_427  # the paper's first day; scenes that no lesson has
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not STUDY_NAME.fullmatch(self.name):
            raise UserError(f"study {self.name!r}: it names a folder; expected letters, digits and . + _ - only")
        if self.questions < 1:
            raise UserError(f"study {self.name}: questions is {self.questions}; expected 1 or more")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or not names:
            raise UserError(
                f"study {self.name}: its arms are {', '.join(names) or 'none'}; expected one or more, no name twice"
            )
        claimed = [name for claim in self.claims for name in (claim.better, claim.worse)]
        for name in (self.compared_with, *claimed):
            if name not in names:
                raise UserError(f"study {self.name}: speaks of an arm {name!r}; it has {', '.join(names)}")
        titles = [condition.title for condition in self.task.conditions]
        for title in self.conditions:
            if title not in titles:
                raise UserError(f"study {self.name}: {self.task.name} has no condition {title!r}; it has {', '.join(titles)}")
        asked = [condition.title for condition in self.asked_in]
        if twice := [title for title in dict.fromkeys(asked) if asked.count(title) > 1]:
            raise UserError(
                f"study {self.name}: asks {twice[0]!r} more than once; name each condition once in conditions, for tables know "
                "them by their titles"
            )
        for claim in self.claims:
            if claim.condition not in asked:
                raise UserError(
                    f"study {self.name}: claims something of {claim.condition!r}, which it does not ask; conditions has "
                    f"{', '.join(asked)}"
                )
        if self.task.grader is None:
            raise UserError(
                f"study {self.name}: {self.task.name} is graded by people; a study needs an exam that grades itself"
            )

    @property
    def compared_with(self) -> str:
        """The name of the reference arm."""
        return self.reference or self.arms[-1].name

    @property
    def asked_in(self) -> tuple[Condition, ...]:
        """The conditions of the exam, in the study's order."""
        known = {condition.title: condition for condition in reversed(self.task.conditions)}
        return tuple(known[title] for title in self.conditions) or tuple(self.task.conditions)

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)


def scaled(study: Study, share: float) -> Study:
    """The study with this share of every stage's steps. Warm-up is a quarter of a stage at most."""

    def shorter(stage: Recipe) -> Recipe:
        steps = max(FEWEST_STEPS, round((stage.steps or 0) * share))
        warmup = min(stage.schedule.warmup_steps, steps // 4)
        return replace(stage, steps=steps, schedule=replace(stage.schedule, warmup_steps=warmup))

    return replace(study, arms=tuple(replace(arm, stages=tuple(map(shorter, arm.stages))) for arm in study.arms))


def find(name: str) -> Study:
    """The study of this name: one of `STUDIES`, `my.module:study` or `./mine.py:study`. Raises UserError for anything else."""
    if name in STUDIES:
        made = made_by(f"mplug_owl.experiments.{STUDIES[name]}", "study")
    elif ":" in name or name.endswith(".py"):
        made = made_by(name, "study")
    else:
        raise UserError(f"no study {name!r}; there are {', '.join(STUDIES)}, my.module:study and ./mine.py:study")
    if not isinstance(made, Study):
        raise UserError(f"{name} returns a {type(made).__name__}; expected a Study")
    if name not in STUDIES:
        check_sizes(name, [stage for arm in made.arms for stage in arm.stages])
    return made
