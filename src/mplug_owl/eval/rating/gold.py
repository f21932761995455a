"""Answers whose grades are known, mixed in among those that people grade."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import LETTERS, Letter
from mplug_owl.eval.grades_file import Key, key, read_grades
from mplug_owl.eval.lines import read_lines, text
from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.task import Task

# Who gives the answers that a gold file brings along. Tables leave grades of systems that they do not know out.
GOLD = "gold"


def read_gold(path: Path, task: Task, answers: Sequence[Answer]) -> tuple[list[Answer], dict[Key, Letter]]:
    """The answers that a gold file adds, and the known grades.

    Its lines are those of a grades.jsonl about answers that are there, or have an `answer` of their own beside `question_id`
    and `grade`, and `split` where it is for one half alone.

    Raises:
        UserError: A line is damaged or has no grade, or lines of both kinds are mixed.
    """
    rows = list(read_lines(path))
    with_answer = ["answer" in row for _, row in rows]
    if not any(with_answer):
        grades = read_grades(path, task.name, answers)
        return [], {key(grade.answer): grade.letter for grade in grades if grade.round == 0 and grade.letter is not None}
    if not all(with_answer):
        line = rows[with_answer.index(False)][0]
        raise UserError(f"{path}, line {line}: no answer; expected one in every line, or in none")
    if any(answer.model == GOLD for answer in answers):
        raise UserError(f"{path}: a system is called {GOLD}; give it another name, NAME=PATH")
    letters: dict[tuple[str, str | None], Letter] = {}
    for number, row in rows:
        letter = next((one for one in LETTERS if one == row.get("grade")), None)
        if letter is None:
            raise UserError(f"{path}, line {number}: grade is {row.get('grade')!r:.80}; expected A, B, C or D")
        letters[text(row, "question_id", f"{path}, line {number}"), row.get("split")] = letter
    added: list[Answer] = []
    known: dict[Key, Letter] = {}
    for answer in read_answers(path, task):
        # A dialogue is complete only where the file answers its earlier turns too.
        if all(words for words in answer.turns):
            added.append(replace(answer, model=GOLD))
            identity = answer.question.id
            known[key(added[-1])] = letters.get((identity, answer.condition.split)) or letters[identity, None]
    return added, known
