"""grades.jsonl: who graded which answer how, line by line. People, judges and files write the same."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import ACCEPTABLE, LETTERS, Grade, Kind, Shown
from mplug_owl.eval.lines import AppendedLines, read_lines, text

# Which answer a line is about.
Key = tuple[str, str, str, str]
# A line without a grade whose details have this says what a person did instead: the answer is as if never graded.
ACTION, SKIP, UNDO = "action", "skip", "undo"


def key(answer: Answer) -> Key:
    """Model, split, mode and question of an answer: one grade of one grader and round belongs to it."""
    return answer.model, answer.condition.split, answer.condition.mode, answer.question.id


class GradesFile:
    """Appends grades to a file, each on the disk when `add` returns. Threads may add at once."""

    def __init__(self, path: Path, task: str) -> None:
        self.path, self.task = path, task
        self._lines = AppendedLines(path)

    def add(self, grade: Grade) -> None:
        """Write one grade. Raises WriteError where the disk is full."""
        model, split, mode, question = key(grade.answer)
        self._lines.append(
            {
                "task": self.task,
                "model_id": model,
                "split": split,
                "mode": mode,
                "question_id": question,
                "answer_digest": grade.answer.digest,
                "grader": grade.grader,
                "kind": grade.kind,
                "grade": grade.letter,
                "score": grade.score,
                "round": grade.round,
                "shown": grade.shown,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **({"details": dict(grade.details)} if grade.details else {}),
            }
        )


def read_grades(path: Path, task: str, answers: Iterable[Answer]) -> list[Grade]:
    """The grades in a file for these answers. A later line of one grader and round takes the place of an earlier one.

    What a person skipped or took back is as if never graded.

    A hand-made file needs `question_id`, `grade` (A to D, or null for none) and, where answers of several models or splits are
    graded, `model_id` and `split`. Where it names no `grader`, the file does: by its name, or its folder's where it is called
    grades.jsonl. Grades for answers of other models are left out.

    Raises:
        UserError: A line is damaged, is about another task or about an answer that has changed since, or fits several answers.
    """
    known: dict[str, list[Answer]] = {}
    models = set()
    for answer in answers:
        known.setdefault(answer.question.id, []).append(answer)
        models.add(answer.model)
    found: dict[tuple[Key, str, str, int, str], Grade] = {}
    for number, row in read_lines(path):
        where = f"{path}, line {number}"
        if row.get("task", task) != task:
            raise UserError(f"{where}: a grade for {row['task']!r:.80}, not for {task}")
        if "model_id" in row and text(row, "model_id", where) not in models:
            continue
        fitting = [one for one in known.get(text(row, "question_id", where), []) if _fits(row, one)]
        if len(fitting) != 1:
            many = "no answer here" if not fitting else f"{len(fitting)} answers"
            raise UserError(f"{where}: fits {many}; expected question_id, and model_id and split where several answers have it")
        grade = _grade(row, fitting[0], where, path.stem if path.name != "grades.jsonl" else path.resolve().parent.name)
        graded = (key(grade.answer), grade.grader, grade.kind, grade.round, grade.shown)
        if grade.letter is None and grade.details.get(ACTION) in (SKIP, UNDO):
            found.pop(graded, None)
        else:
            found[graded] = grade
    return list(found.values())


def latest(grades: Iterable[Grade]) -> list[Grade]:
    """One grade of each grader and round for an answer: the last of several, such as from a file that was read twice."""
    return list({(key(one.answer), one.grader, one.kind, one.round, one.shown): one for one in grades}.values())


def _fits(row: Mapping[str, Any], answer: Answer) -> bool:
    """Whether a line is about this answer, as far as it says."""
    known = {"model_id": answer.model, "split": answer.condition.split, "mode": answer.condition.mode}
    return all(row.get(name, value) == value for name, value in known.items())


def _grade(row: Mapping[str, Any], answer: Answer, where: str, file: str) -> Grade:
    """One line as a grade of this answer, by whom it says or else by its `file`."""
    if row.get("answer_digest", answer.digest) != answer.digest:
        raise UserError(f"{where}: the answer to question {answer.question.id} has changed since it was graded; grade it again")
    letter = row.get("grade")
    if letter is not None and letter not in LETTERS:
        raise UserError(f"{where}: grade is {letter!r:.80}; expected A, B, C, D, or null where there is none")
    kind, shown, turn = row.get("kind", "file"), row.get("shown", "picture"), row.get("round", 0)
    if kind not in get_args(Kind) or shown not in get_args(Shown) or not isinstance(turn, int):
        raise UserError(f"{where}: kind {kind!r:.40}, shown {shown!r:.40}, round {turn!r:.40}; expected what grades.jsonl has")
    of_letter = None if letter is None else float(letter in ACCEPTABLE)
    score = row.get("score", of_letter)
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score)):
        raise UserError(f"{where}: score is {score!r:.80}; expected a number, or null where there is none")
    if letter is not None and score != of_letter:
        raise UserError(f"{where}: score is {score!r:.80} beside grade {letter}; expected {of_letter:g}, or no score")
    grader = text(row, "grader", where) if "grader" in row else file
    details = row.get("details", {})
    if not isinstance(details, dict):
        raise UserError(f"{where}: details is {details!r:.80}; expected an object")
    return Grade(answer, score, letter, grader, cast(Kind, kind), turn, cast(Shown, shown), details)
