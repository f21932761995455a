"""Questions in words alone, graded by a judge beside a reference answer: Vicuna's way, or a file of your own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mplug_owl.errors import UserError
from mplug_owl.eval.grade import Grader
from mplug_owl.eval.lines import read_lines
from mplug_owl.eval.statistics import OVERALL
from mplug_owl.eval.task import Condition, Question

NAME = "text"
QUESTIONS = "question.jsonl"
# FastChat's files with answers to compare with: beside the questions, or in a folder of their own.
REFERENCES = ("reference_*.jsonl", "reference_answer/*.jsonl")
_WORDS = ("turns", "question", "questions", "prompt")
_ANSWERS = ("reference", "references", "answer", "target", "text")


@dataclass(frozen=True)
class TextQuestions:
    """Questions without pictures. Each turn of a dialogue is one, asked after the model's own answers to the turns before.

    Args:
        data: A folder in FastChat's layout, question.jsonl and reference_*.jsonl; or a file of JSON lines, each with
            `question` (or `turns`, a list) and, where it can be scored, `reference` (an answer, or a list of one a turn).

    Raises:
        UserError: There is no such file, a line is damaged, or two lines are about one question.
    """

    data: Path
    name: str = NAME
    conditions: Sequence[Condition] = (Condition("all", "picture", "in words", "text alone"),)
    grader: Grader | None = None

    def questions(self, split: str, count: int | None = None, seed: int = 0) -> list[Question]:
        """The first `count` questions in their order. Nothing is drawn, so `seed` changes nothing."""
        return self._questions[:count]

    @cached_property
    def _questions(self) -> list[Question]:
        folder = self.data.is_dir()
        path = self.data / QUESTIONS if folder else self.data
        if folder and not path.is_file():
            raise UserError(f"{path}: no such file; expected FastChat's {QUESTIONS} in the folder, or a file as --data")
        references = _references(self.data) if folder else {}
        found: list[Question] = []
        known: dict[str, str] = {}
        for number, row in read_lines(path):
            where = f"{path}, line {number}"
            identity = _identity(row, where) or str(number)
            if identity in known:
                raise UserError(f"{where}: question {identity} is on {known[identity]} too; expected another id")
            known[identity] = f"line {number}"
            found += _asked(row, identity, references.get(identity, ()), where)
        if not found:
            raise UserError(f"{path}: no questions in the file; expected JSON lines with question, and reference")
        return found


def _asked(row: Mapping[str, Any], identity: str, answers: Sequence[str], where: str) -> Iterator[Question]:
    """A question for each turn of a line."""
    words = _texts(row, _WORDS, where)
    if not words or not all(one.strip() for one in words):
        raise UserError(f"{where}: no words in any of {', '.join(_WORDS)}; expected what is asked")
    answers = answers or _texts(row, _ANSWERS, where)
    if answers and len(answers) != len(words):
        raise UserError(f"{where}: question {identity} has {len(words)} turns and {len(answers)} references; expected one each")
    category = row.get("category")
    if category is not None and not isinstance(category, str):
        raise UserError(f"{where}: category is {category!r:.80}; expected text")
    turns = tuple(zip(words, answers or [""] * len(words), strict=True))
    for turn in range(len(turns)):
        name = f"{identity}.{turn + 1}" if len(turns) > 1 else identity
        yield Question(name, category or OVERALL, f"turn {turn + 1}", turns[: turn + 1], image=f"question {identity}")


def _references(folder: Path) -> dict[str, tuple[str, ...]]:
    """The reference answers of a folder by question, one a turn."""
    found: dict[str, tuple[str, ...]] = {}
    said_in: dict[str, str] = {}
    for path in sorted(path for pattern in REFERENCES for path in folder.glob(pattern)):
        for number, row in read_lines(path):
            where = f"{path}, line {number}"
            identity = _identity(row, where)
            if identity is None:
                raise UserError(f"{where}: no question_id; expected that of a question")
            if identity in found:
                raise UserError(f"{where}: question {identity} has a reference in {said_in[identity]} too; expected one")
            choices = row.get("choices")
            answered = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else row
            found[identity], said_in[identity] = _texts(answered, ("turns", *_ANSWERS), where), path.name
            if not found[identity]:
                raise UserError(f"{where}: no answer; expected choices with turns, as FastChat has them, or reference")
    return found


def _identity(row: Mapping[str, Any], where: str) -> str | None:
    """What a line calls its question, if it does."""
    name = next((name for name in ("question_id", "id") if name in row), None)
    if name is None:
        return None
    if isinstance(row[name], bool) or not isinstance(row[name], int | str):
        raise UserError(f"{where}: {name} is {row[name]!r:.80}; expected text or a number")
    return str(row[name])


def _texts(row: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, ...]:
    """The first of these fields that a line has, as a text a turn; nothing where it has none."""
    name = next((name for name in names if row.get(name) is not None), None)
    values = row[name] if name is not None and isinstance(row[name], list) else [row[name]] if name is not None else []
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: {name} is {row[name or '']!r:.80}; expected text, or a list of it")
    return tuple(values)
