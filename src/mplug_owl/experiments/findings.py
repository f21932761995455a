"""From a study's cells to its findings: every arm's means, its differences from the reference, claims, and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mplug_owl.eval.statistics import OVERALL
from mplug_owl.experiments.cells import Answering, Cell, Cost, Scores, answering_of, cost_of, read_scores
from mplug_owl.experiments.effects import Estimate, NoiseFloor, estimate, noise_floor, seed_means
from mplug_owl.experiments.study import Claim, Study

Mark = Literal["holds", "does not hold", "undecided", "not run yet"]


@dataclass(frozen=True)
class Row:
    """What one arm scored in one condition, for all abilities together and each apart.

    Args:
        arm: Its name.
        condition: The condition's title.
        seeds: The seeds of its cells that are done.
        means: An estimate by ability, `overall` among them; nothing where no cell is done.
        differences: The arm minus the reference, over the seeds that both have; nothing for the reference itself.
        by_seed: Each seed's share of correct answers; nothing where no question has a score.
    """

    arm: str
    condition: str
    seeds: tuple[int, ...]
    means: dict[str, Estimate]
    differences: dict[str, Estimate]
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Tried:
    """A claim and what came out: the better arm minus the worse one."""

    claim: Claim
    estimate: Estimate | None
    mark: Mark


@dataclass(frozen=True)
class Findings:
    """A study with what its cells say so far.

    Args:
        study: What was asked, in the length in which it was run.
        seeds: The seeds that it shall have.
        share: Of the study's usual steps.
        quick: Whether it is a quick try, not to be believed.
        rows: A row for each condition and arm, in the study's order.
        claims: What became of each.
        noise: An arm against itself under other seeds, in the first condition.
        costs: Each arm's mean cost of a cell, None where none is done.
        answering: What the answers of those arms took that experts answer, all seeds together.
    """

    study: Study
    seeds: tuple[int, ...]
    share: float
    quick: bool
    rows: tuple[Row, ...]
    claims: tuple[Tried, ...]
    noise: NoiseFloor | None
    costs: dict[str, Cost | None]
    answering: dict[str, Answering]

    def of(self, condition: str) -> list[Row]:
        """The rows of one condition."""
        return [row for row in self.rows if row.condition == condition]

    @property
    def conditions(self) -> list[str]:
        """The titles of the conditions."""
        return [condition.title for condition in self.study.asked_in]

    @property
    def missing(self) -> int:
        """How many cells are not done."""
        return len(self.seeds) * len(self.study.arms) - sum(len(row.seeds) for row in self.of(self.conditions[0]))

    def as_json(self) -> dict[str, Any]:
        """Plain values. What a clock measured is in `costs` and `answering`; all else is the same whenever it is computed."""
        return {
            "study": self.study.name,
            "question": self.study.words,
            "reference": self.study.compared_with,
            "seeds": list(self.seeds),
            "share_of_steps": self.share,
            "quick": self.quick,
            "cells_missing": self.missing,
            "exam": {"task": self.study.task.name, "questions": self.study.questions, "seed": self.study.exam_seed},
            "arms": {
                arm.name: {"words": arm.words, "stages": {stage.name: stage.steps for stage in arm.stages}}
                for arm in self.study.arms
            },
            "rows": [asdict(row) | {"verdict": {n: one.verdict for n, one in row.differences.items()}} for row in self.rows],
            "claims": [asdict(one) for one in self.claims],
            "noise_floor": None if self.noise is None else asdict(self.noise),
            "costs": {name: None if cost is None else asdict(cost) for name, cost in self.costs.items()},
            **({"answering": {name: asdict(one) for name, one in self.answering.items()}} if self.answering else {}),
        }


def gather(study: Study, out: Path, seeds: Sequence[int], share: float = 1.0, quick: bool = False) -> Findings:
    """What the cells in a study's folder say; cells that are not done are left out."""
    cells = {arm.name: [Cell(arm, seed, out) for seed in seeds] for arm in study.arms}
    asked = {condition.title: read_scores(study, cells, condition.title) for condition in study.asked_in}
    rows = [
        _row(name, title, scores.get(name), scores.get(study.compared_with), study)
        for title, scores in asked.items()
        for name in cells
    ]
    costs = {name: _mean([cost for cell in mine if (cost := cost_of(cell)) is not None]) for name, mine in cells.items()}
    claims = tuple(_tried(claim, asked[claim.condition]) for claim in study.claims)
    answering = {name: took for name, mine in cells.items() if (took := answering_of(study, mine)) is not None}
    noise = noise_floor([one.of() for one in asked[study.asked_in[0].title].values()])
    return Findings(study, tuple(seeds), share, quick, tuple(rows), claims, noise, costs, answering)


def difference(scores: Scores | None, other: Scores | None, abilities: Sequence[str] = ()) -> Estimate | None:
    """Scores minus others, seed by seed and question by question; None where they have no seed in common."""
    if scores is None or other is None:
        return None
    shared = [seed for seed in scores.seeds if seed in other.seeds]
    if not shared:
        return None
    mine = scores.of(abilities)[[scores.seeds.index(seed) for seed in shared]]
    theirs = other.of(abilities)[[other.seeds.index(seed) for seed in shared]]
    return estimate(mine - theirs)


def _row(arm: str, title: str, scores: Scores | None, reference: Scores | None, study: Study) -> Row:
    if scores is None:
        return Row(arm, title, (), {}, {}, ())
    names = {OVERALL: (), **{ability: (ability,) for ability in scores.abilities}}
    means = {name: estimate(scores.of(abilities)) for name, abilities in names.items()}
    differences = {}
    if arm != study.compared_with:
        found = {name: difference(scores, reference, abilities) for name, abilities in names.items()}
        differences = {name: one for name, one in found.items() if one is not None}
    return Row(arm, title, scores.seeds, means, differences, tuple(seed_means(scores.of())))


def _tried(claim: Claim, scores: Mapping[str, Scores]) -> Tried:
    found = difference(scores.get(claim.better), scores.get(claim.worse), claim.abilities)
    if found is None:
        return Tried(claim, None, "not run yet")
    return Tried(claim, found, mark(found, claim.points / 100))


def mark(found: Estimate, least: float) -> Mark:
    """Whether a claim of a difference of at least so much, as a share, holds: its whole interval lies there, or none of it."""
    if found.interval is None:
        return "undecided"
    low, high = found.interval
    return "holds" if low > least else "does not hold" if high < least else "undecided"


def _mean(costs: Sequence[Cost]) -> Cost | None:
    """The mean of several seeds' costs."""
    if not costs:
        return None
    count = len(costs)
    return Cost(
        costs[0].trainable,
        sum(cost.flops for cost in costs) / count,
        sum(cost.seconds for cost in costs) / count,
        costs[0].gib,
    )
