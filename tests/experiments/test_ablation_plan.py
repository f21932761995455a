"""What a study's plan says of its cost and of what it can show."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.eval.task import Question
from mplug_owl.experiments import ablation_plan
from mplug_owl.experiments.ablation_plan import Pace, show_plan
from mplug_owl.experiments.study import Arm, Study
from tests.experiments.test_ablation import Colours, guesses
from tests.school import lesson

pytest.importorskip("scipy")


@dataclass(frozen=True)
class Pairs(Colours):
    """Two questions about each of six pictures."""

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        found = super().questions(split, count, seed)
        return [replace(one, image=f"picture {number // 2}") for number, one in enumerate(found)]


def test_questions_about_one_picture_count_once_in_what_a_study_can_show(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    show_plan(replace(guesses(none=0.1, much=0.8), task=Pairs()), tmp_path, 3, console)
    assert "6 (this study)" in console.file.getvalue()
    assert "12 (this study)" not in console.file.getvalue()


def test_arms_that_differ_in_the_batch_alone_differ_in_their_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation_plan, "seconds_per_step", lambda recipe: 1.0)
    small, large = lesson(batch=4, micro_batch=4), lesson(batch=16, micro_batch=4)
    pace = Pace(Study("batches", "", (Arm("small", "", (small,)), Arm("large", "", (large,))), task=Colours(), conditions=()))
    assert pace.seconds(large) == 4 * pace.seconds(small)
    assert pace.plan(replace(large, seed=3, steps=9)) is pace.plan(large)
