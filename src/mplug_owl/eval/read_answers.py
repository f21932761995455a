"""Answers from a file: an answers.jsonl of ours, or one of other systems, such as those that OwlEval was released with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.lines import earlier_turns, read_lines, text
from mplug_owl.eval.task import Condition, Question, Task
from mplug_owl.eval.trace_rows import with_trace

# What OwlEval's released files say where a system gave no answer ("cannot be traced back").
NO_ANSWER = "无法回溯"


@dataclass(frozen=True)
class _Row:
    """One line of a file: where it stands, which question it answers, and how; what it does not say is None."""

    where: str
    question_id: str
    answer: str
    model: str | None
    question: str | None
    split: str | None
    mode: str
    earlier: tuple[str, ...] | None


def read_answers(
    path: Path, task: Task, count: int | None = None, seed: int = 0, note: Callable[[str], None] = lambda sentence: None
) -> list[Answer]:
    """A file's answers to a task, in the order of its questions: an answers.jsonl of ours, or one as OwlEval was released with.

    A row without `split` answers its question in every condition with the picture, and its earlier turns are answered by the
    rows of those questions. What the released files say for "no answer" becomes an empty answer. Questions are found by their
    ids: their words are compared, and `note` gets a sentence where they differ.

    Args:
        path: The file.
        task: What was asked.
        count: How many of the task's questions are read; rows that answer others are left out.
        seed: That of the exam.
        note: Takes a sentence about what is odd: questions that have other words there, or no answer.

    Raises:
        UserError: A line is damaged, answers no question of the task or one that another line answers; or there is none.
    """
    rows = [_row(row, f"{path}, line {number}", task) for number, row in read_lines(path)]
    models = dict.fromkeys(row.model or path.stem for row in rows)
    if len(models) > 1:
        raise UserError(f"{path}: answers of {' and '.join(map(repr, models))}; expected one model's, a file for each")
    questions = {condition: task.questions(condition.split, count, seed) for condition in task.conditions}
    found = _matched(rows, questions, task.name, count is None)
    if not found:
        raise UserError(f"{path}: no answer to any question of {task.name}")
    _compare_words(questions, found, path, task.name, note)
    answers = []
    for condition, here in questions.items():
        by_prompt = {one.prompt(len(one.turns)): found.get((condition, one.id)) for one in here}
        for question in here:
            row = found.get((condition, question.id))
            if row is not None:
                before = [by_prompt.get(question.prompt(turn)) for turn in range(len(question.turns) - 1)]
                earlier = row.earlier if row.earlier is not None else [one.answer if one else "" for one in before]
                answers.append(Answer(question, condition, (*earlier, row.answer), next(iter(models))))
    return answers


def _compare_words(
    questions: Mapping[Condition, Sequence[Question]],
    found: Mapping[tuple[Condition, str], _Row],
    path: Path,
    task: str,
    note: Callable[[str], None],
) -> None:
    """Say which questions have other words in the file than in the task, and how many none, where it answers any at all."""
    reworded: dict[str, None] = {}
    for condition, here in questions.items():
        for question in here:
            row = found.get((condition, question.id))
            if row is not None and row.question is not None and _bare(row.question) != _bare(question.text):
                reworded[question.id] = None
    if reworded:
        note(f"{path}: the words of questions {', '.join(reworded)} differ from {task}'s; found by their ids")
    asked = sum(len(questions[condition]) for condition in {condition for condition, _ in found})
    if len(found) < asked:
        note(f"{path}: has answers to {len(found)} of {asked} questions; the others are in no figure")


def _matched(
    rows: Sequence[_Row], questions: Mapping[Condition, Sequence[Question]], task: str, all_of_it: bool
) -> dict[tuple[Condition, str], _Row]:
    """The row of each condition and question that has one. Where all was asked, a row without a question is an error."""
    turns = {condition: {one.id: len(one.turns) for one in here} for condition, here in questions.items()}
    found: dict[tuple[Condition, str], _Row] = {}
    for row in rows:
        fitting = [
            condition
            for condition in questions
            if condition.mode == row.mode and row.split in (None, condition.split) and row.question_id in turns[condition]
        ]
        if not fitting and all_of_it:
            raise UserError(f"{row.where}: question_id {row.question_id!r:.80} is none of {task}'s")
        if row.earlier is not None and fitting:
            most = max(turns[condition][row.question_id] for condition in fitting) - 1
            if len(row.earlier) > most:
                raise UserError(
                    f"{row.where}: {len(row.earlier)} earlier turns, and question {row.question_id} has {most} in {task}"
                )
        for condition in fitting:
            if row.earlier is not None and len(row.earlier) + 1 != turns[condition][row.question_id]:
                continue  # it leads up to its question, or answers it in another condition
            if (condition, row.question_id) in found:
                raise UserError(
                    f"{row.where}: an earlier line answers question {row.question_id} too; expected one answer to each"
                )
            found[condition, row.question_id] = row
    return found


def _row(row: Mapping[str, Any], where: str, task: Task) -> _Row:
    if row.get("task", task.name) != task.name:
        raise UserError(f"{where}: an answer to {row['task']!r:.80}, not to {task.name}")
    answer, earlier = text(row, "answer", where).strip(), row.get("earlier")
    return _Row(
        where,
        text(row, "question_id", where),
        "" if answer == NO_ANSWER else with_trace(answer, row, where),
        text(row, "model_id", where) if "model_id" in row else None,
        text(row, "question", where) if "question" in row else None,
        text(row, "split", where) if "split" in row else None,
        text(row, "mode", where) if "mode" in row else "picture",
        tuple(text(turn, "answer", where) for turn in earlier_turns(row, where)) if earlier is not None else None,
    )


def _bare(words: str) -> str:
    """Letters and digits alone: released files lost spaces and changed question marks."""
    return "".join(letter for letter in words.casefold() if letter.isalnum())
