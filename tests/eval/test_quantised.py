"""The cost of quantising is that of pairs: the same question, before and after."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.quantised import costs, show_cost
from mplug_owl.eval.tasks.scenes import DrawnWorld

WORLD = DrawnWorld()
CONDITION = WORLD.conditions[0]
QUESTIONS = WORLD.questions(CONDITION.split, 10, seed=0)[:40]


def grades(model: str, wrong: set[int]) -> list[Grade]:
    return [
        Grade(Answer(question, CONDITION, ("x",), model), float(number not in wrong))
        for number, question in enumerate(QUESTIONS)
    ]


def test_pairs_are_compared_and_not_two_means() -> None:
    before, after = grades("a", {0, 1, 2}), grades("a-nf4", {2, 3, 4, 5, 6})
    (found,) = costs(before, list(reversed(after)))
    assert (found.before, found.after) == (37 / 40, 35 / 40)
    assert (found.changed, found.pairs) == (6, 40)
    assert found.interval[0] < found.after - found.before < found.interval[1]
    few, many = costs(before, grades("b", {0, 1, 2, 3, 4}))[0], costs(before, grades("b", set(range(5, 10))))[0]
    assert few.after == many.after
    assert few.interval[0] > many.interval[0]  # more that changed is less certain


def test_what_has_no_grade_is_left_out() -> None:
    before = grades("a", set())
    (found,) = costs([replace(before[0], score=None), *before[1:30]], grades("b", {3}))
    assert (found.pairs, found.changed) == (29, 1)
    with pytest.raises(UserError, match="no graded question in common"):
        costs(before[:5], grades("b", set())[5:])


def test_it_is_shown_beside_the_score_of_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    both = [*grades("a", set()), *grades("a-nf4", {0})]
    answers = {id(grade.answer): grade for grade in both}
    grader = SimpleNamespace(grades=lambda given: [answers[id(one)] for one in given])
    exam = SimpleNamespace(answers=[one.answer for one in both], models=("a", "a-nf4"), task=SimpleNamespace(grader=grader))
    monkeypatch.setattr("mplug_owl.eval.quantised.read_exam", lambda entries, data: exam)
    show_cost(Path("one"), Path("other"), None, (), Console(width=120))
    shown = capsys.readouterr().out
    assert "100.0 │  97.5 │ -2.5 [-7.5, +0.0] │" in shown
    assert "1 of 40" in shown
