"""The demo's timetable: the steps that fit, never fewer than make sense."""

from pathlib import Path

import pytest

from mplug_owl.experiments import minutes
from mplug_owl.experiments.minutes import FEWEST, STEPS, Timetable, fitted, seconds_per_step, steps_within, usual
from mplug_owl.recipes import tiny
from tests.school import lesson, lessons

PACE = {"pretrain": 0.5, "instruct": 1.5}
MOST = {"pretrain": 4000, "instruct": 1000}
RECIPES = {"pretrain": tiny.pretrain(), "instruct": tiny.instruct()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is; tests set it."""
    now = [1000.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_the_usual_steps_take_what_they_take() -> None:
    assert steps_within(540 * 0.5 + 60 * 1.5, PACE, MOST) == STEPS


def test_both_stages_grow_and_shrink_together() -> None:
    assert steps_within(720, PACE, MOST) == {"pretrain": 1080, "instruct": 120}
    assert steps_within(180, PACE, MOST) == {"pretrain": 270, "instruct": 30}


@pytest.mark.parametrize("seconds", [-100, 0, 10])
def test_never_fewer_than_make_sense(seconds: float) -> None:
    assert steps_within(seconds, PACE, MOST) == FEWEST


def test_never_more_than_the_recipes_have() -> None:
    assert steps_within(1e6, PACE, MOST) == MOST


def test_a_share_of_the_usual_steps() -> None:
    assert usual().steps == STEPS
    assert usual(0.5).steps == {"pretrain": 270, "instruct": 30}
    assert usual(0.01).steps == {"pretrain": 5, "instruct": 2}


def test_stage_2_has_the_time_that_stage_1_left(clock: list[float]) -> None:
    timetable = Timetable({"pretrain": 500, "instruct": 60}, PACE, clock[0] + 400)
    assert timetable.steps_of("pretrain") == 500
    clock[0] += 350
    assert timetable.steps_of("instruct") == 30 > (50 - minutes.AROUND) / PACE["instruct"]
    late = Timetable({"pretrain": 500, "instruct": 60}, PACE, clock[0] + 75 + minutes.AROUND)
    assert late.steps_of("instruct") == 50
    early = Timetable({"pretrain": 500, "instruct": 60}, PACE, clock[0] + 1000)
    assert early.steps_of("instruct") == 60


def test_what_comes_later_is_told_in_steps_of_the_stage() -> None:
    assert Timetable({"pretrain": 500, "instruct": 60}, PACE).later("pretrain") == 180
    assert Timetable({"pretrain": 500, "instruct": 60}).later("pretrain") == pytest.approx(60 * minutes.SLOWER)
    assert usual().later("instruct") == 0


@pytest.mark.parametrize(("available", "words"), [(600, "876 steps of stage 1"), (60, "Too little time")])
def test_steps_are_fitted_to_what_was_timed(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, available: float, words: str
) -> None:
    monkeypatch.setattr(minutes, "seconds_per_step", lambda recipe: PACE[recipe.name.split(".")[1]])
    said: list[str] = []
    timetable = fitted(RECIPES, clock[0] + available, said.append)
    assert words in said[0]
    assert timetable.steps == steps_within(available - 2 * minutes.AROUND, PACE, MOST)


def test_a_step_is_timed_by_training(tmp_path: Path) -> None:
    lessons(tmp_path / "data")
    recipe = lesson(data=(f"chat:{tmp_path}/data/chats.jsonl",))
    assert 0 < seconds_per_step(recipe) < 60
