"""The exam of the drawn world: its problems are the world's own, its grading is word for word."""

import pytest

from mplug_owl.eval import tasks
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.scenes import ABILITIES, exam

WORLD = DrawnWorld()


def test_it_is_found_by_its_name() -> None:
    assert tasks.find("scenes") == WORLD
    with pytest.raises(ValueError, match="no task 'sceens'; there is scenes"):
        tasks.find("sceens")


def test_every_sitting_has_problems_and_those_of_one_table_the_same_abilities() -> None:
    asked: dict[str, set[tuple[str, ...]]] = {}
    for sitting in WORLD.sittings:
        problems = WORLD.problems(sitting.split, 2, seed=3)
        asked.setdefault(sitting.table, set()).add(tuple(dict.fromkeys(problem.ability for problem in problems)))
        again = WORLD.problems(sitting.split, 2, seed=3)
        assert [(problem.turns, problem.told) for problem in problems] == [(problem.turns, problem.told) for problem in again]
    full, reading = asked.values()
    assert full == {ABILITIES}
    assert len(reading) == 1
    assert "ocr" in next(iter(reading))


def test_a_problem_is_the_worlds_item() -> None:
    for problem, item in zip(WORLD.problems("seen", 3, 5), exam(3, "seen", 5), strict=True):
        assert (problem.ability, problem.kind, problem.turns, problem.told) == (
            item.ability,
            item.kind,
            item.turns,
            item.scene.told,
        )
        assert problem.picture().tobytes() == item.scene.draw().tobytes()
        assert problem.right
        assert WORLD.correct(problem, problem.right)


@pytest.mark.parametrize(
    ("said", "correct"),
    [("{}", True), (" {} \n", True), ("{}.", True), ("{}..", False), ("{} indeed", False), ("", False), ("nonsense", False)],
)
def test_grading_forgives_space_around_and_one_full_stop(said: str, correct: bool) -> None:
    for problem in WORLD.problems("seen", 4, 1):
        assert WORLD.correct(problem, said.format(problem.right.removesuffix("."))) is correct


def test_capitals_count() -> None:
    asked = [problem for problem in WORLD.problems("seen", 16, 1) if problem.kind == "capitals"]
    assert asked
    assert not any(WORLD.correct(problem, problem.right.lower()) for problem in asked)
