"""Grading: every condition's answers are graded, a row says it all, and a programmer's mistake is no wrong answer."""

import pytest

from mplug_owl.chat import OwlChatModel
from mplug_owl.eval.grade import evaluate
from mplug_owl.eval.graders import exact
from mplug_owl.model.load import Owl
from tests.eval.quiz import CONDITIONS, Listener, Quiz
from tests.tiny import tiny_config, tiny_owl, tiny_processor


def test_an_exam_is_every_condition_graded() -> None:
    begun = []
    grades = evaluate(Listener(), Quiz(), 2, seed=5, on_condition=begun.append)
    assert tuple(begun) == CONDITIONS
    assert len(grades) == 3 * 4 + 2
    assert not any(grade.correct for grade in grades)
    row = next(grade for grade in grades if grade.answer.question.ability == "talking").row()
    assert row == {
        "ability": "talking",
        "kind": "card",
        "split": "plain",
        "mode": "picture",
        "question": "What is on card 5, line 1?",
        "target": "line 1 of 5.",
        "answer": "on card 5, line 1? 4",
        "correct": False,
        "score": 0.0,
        "grader": "exact",
        "earlier": [{"question": "What is on card 5, line 0?", "target": "line 0 of 5.", "answer": "on card 5, line 0? 2"}],
    }
    assert [grade.answer.condition for grade in evaluate(Listener(), Quiz(), 1, 0, CONDITIONS[3:])] == [CONDITIONS[3]]


@pytest.mark.parametrize(
    ("answer", "correct"),
    [("red", True), (" red \n", True), ("red.", True), ("red..", False), ("Red", False), ("red indeed", False), ("", False)],
)
def test_an_exact_match_forgives_space_around_and_one_full_stop(answer: str, correct: bool) -> None:
    assert exact.matches(answer, "red") is exact.matches(answer, "red.") is correct


def mistaken(*_: object, **__: object) -> None:
    """A programmer's mistake."""
    list(zip((1,), (), strict=True))


@pytest.mark.parametrize("place", ["model", "grader"])
def test_a_programmers_mistake_is_no_wrong_answer(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the exam with the traceback of where it was raised, as what it is: no UserError, no wrong answer."""
    model = tiny_owl(tiny_config())
    monkeypatch.setattr(*{"model": (type(model), "forward"), "grader": (exact, "_bare")}[place], mistaken)
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter") as raised:
        evaluate(OwlChatModel(Owl(model, tiny_processor(model))), Quiz(), 1, 0)
    assert raised.type is ValueError
    assert raised.traceback[-1].name == "mistaken"
