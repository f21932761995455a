"""grades.jsonl: whoever graded, the grade comes back for its answer, and none for an answer that has changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, lettered
from mplug_owl.eval.grades_file import GradesFile, read_grades
from mplug_owl.eval.tasks.owleval import OwlEval
from tests.eval.owleval import folder_of


@pytest.fixture
def answers(tmp_path: Path) -> list[Answer]:
    task = OwlEval(folder_of(tmp_path))
    return [
        Answer(question, condition, tuple(f"{model} {words}" for words, _ in question.turns), model)
        for model in ("one", "two")
        for condition in task.conditions
        for question in task.questions(condition.split)
    ]


def test_grades_come_back_as_they_were_given(answers: list[Answer], tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    given = [
        lettered(answers[0], "A", "anna", "person"),
        replace(lettered(answers[0], "B", "anna", "person"), round=1),
        lettered(answers[3], "C", "anna", "person"),
        replace(lettered(answers[3], None, "gpt", "judge"), details={"reply": "I cannot.\n"}),
        replace(lettered(answers[3], "D", "gpt", "judge"), shown="exchanged"),
        Grade(answers[9], 0.25, grader="anls"),
    ]
    for grade in given:
        GradesFile(path, "owleval").add(grade)
    assert read_grades(path, "owleval", answers) == given
    assert [grade.score for grade in given] == [1, 1, 0, None, 0, 0.25]


def test_a_later_line_takes_an_earlier_ones_place(answers: list[Answer], tmp_path: Path) -> None:
    file = GradesFile(tmp_path / "grades.jsonl", "owleval")
    file.add(lettered(answers[0], "D", "anna", "person"))
    file.add(lettered(answers[0], "A", "anna", "person"))
    assert [grade.letter for grade in read_grades(file.path, "owleval", answers)] == ["A"]


def test_an_answer_that_has_changed_is_not_graded(answers: list[Answer], tmp_path: Path) -> None:
    """Its own words, or those that led up to it."""
    file = GradesFile(tmp_path / "grades.jsonl", "owleval")
    file.add(lettered(answers[4], "A", "anna", "person"))
    for turns in ((*answers[4].turns[:-1], "other"), ("other", *answers[4].turns[1:])):
        changed = [replace(one, turns=turns) if one == answers[4] else one for one in answers]
        with pytest.raises(UserError, match="line 1: the answer to question 4 has changed since"):
            read_grades(file.path, "owleval", changed)


def test_files_made_by_hand_say_as_little_as_is_needed(answers: list[Answer], tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question_id": 1, "grade": "B"}\n{"question_id": "3", "grade": null}\n')
    (first, second) = read_grades(path, "owleval", answers[:5])
    assert (first.letter, first.score, first.grader, first.kind) == ("B", 1.0, "mine", "file")
    assert (second.letter, second.score) == (None, None)
    path.write_text(
        '{"question_id": 2, "model_id": "two", "split": "multi", "grade": "C"}\n{"question_id": 1, "model_id": "x"}\n'
    )
    (only,) = read_grades(path, "owleval", answers)  # another model's grades stay where they are
    assert (only.answer, only.letter) == (answers[7], "C")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"question_id": "2", "model_id": "one", "grade": "A"}, "fits 2 answers"),
        ({"question_id": "1", "grade": "A"}, "fits 2 answers"),
        ({"question_id": "9", "grade": "A"}, "fits no answer here"),
        ({"question_id": "3", "model_id": "one", "grade": "E"}, "grade is 'E'; expected A, B, C, D"),
        ({"question_id": "3", "model_id": "one", "grade": "a"}, "grade is 'a'"),
        ({"question_id": "3", "model_id": "one", "task": "quiz"}, "a grade for 'quiz'"),
        ({"question_id": "3", "model_id": "one", "kind": "cat"}, "kind 'cat'"),
        ({"question_id": "3", "model_id": "one", "score": "1"}, "score is '1'"),
        ({"question_id": "3", "model_id": "one", "score": float("nan")}, "score is nan"),
        ({"question_id": "3", "model_id": "one", "score": True}, "score is True"),
        ({"question_id": "3", "model_id": "one", "grade": "A", "score": 0.0}, "score is 0.0 beside grade A; expected 1"),
        ({"question_id": "3", "model_id": ["one"], "grade": "A"}, "model_id is"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(row: dict, problem: str, answers: list[Answer], tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"line 1: {problem}"):
        read_grades(path, "owleval", answers)
