"""The exam of the drawn world: its questions are the world's own, its grading is word for word."""

import pytest

from mplug_owl.errors import UserError
from mplug_owl.eval import tasks
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.task import Question
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.scenes import ABILITIES, exam

WORLD = DrawnWorld()


def matches_target(question: Question, answer: str) -> bool:
    (grade,) = WORLD.grader.grades(
        [Answer(question, WORLD.conditions[0], (*(target for _, target in question.turns[:-1]), answer))]
    )
    return grade.correct


def test_it_is_found_by_its_name() -> None:
    assert tasks.find("scenes") == WORLD
    with pytest.raises(UserError, match="no task 'sceens'; there is scenes"):
        tasks.find("sceens")


def test_every_condition_has_questions_and_those_of_one_table_the_same_abilities() -> None:
    asked: dict[str, set[tuple[str, ...]]] = {}
    for condition in WORLD.conditions:
        questions = WORLD.questions(condition.split, 2, seed=3)
        asked.setdefault(condition.table, set()).add(tuple(dict.fromkeys(question.ability for question in questions)))
        again = WORLD.questions(condition.split, 2, seed=3)
        assert [(question.turns, question.description) for question in questions] == [
            (question.turns, question.description) for question in again
        ]
    full, reading = asked.values()
    assert full == {ABILITIES}
    assert len(reading) == 1
    assert "ocr" in next(iter(reading))


def test_a_question_is_the_worlds_item() -> None:
    for question, item in zip(WORLD.questions("seen", 3, 5), exam(3, "seen", 5), strict=True):
        assert (question.ability, question.kind, question.turns, question.description) == (
            item.ability,
            item.kind,
            item.turns,
            item.scene.description,
        )
        assert question.picture().tobytes() == item.scene.draw().tobytes()
        assert question.target
        assert matches_target(question, question.target)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [("{}", True), (" {} \n", True), ("{}.", True), ("{}..", False), ("{} indeed", False), ("", False), ("nonsense", False)],
)
def test_grading_forgives_space_around_and_one_full_stop(answer: str, correct: bool) -> None:
    for question in WORLD.questions("seen", 4, 1):
        assert matches_target(question, answer.format(question.target.removesuffix("."))) is correct


def test_capitals_count() -> None:
    asked = [question for question in WORLD.questions("seen", 16, 1) if question.kind == "capitals"]
    assert asked
    assert not any(matches_target(question, question.target.lower()) for question in asked)
