"""`owl judge` from a judge's name to its passport: what is missing is asked, and each grade is written down at once."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.exam_folder import GRADES, JUDGING_LOCK, Exam
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.grades_file import GradesFile, key, read_grades
from mplug_owl.eval.judge.audit import audit_sheets
from mplug_owl.eval.judge.judge import Judge, Sheet
from mplug_owl.eval.judge.pairs import PAIRS, Pair, PairsFile, compare, pair_key, pairs_of, read_pairs
from mplug_owl.eval.judge.prompt import VERSION
from mplug_owl.writing import sole_writer

REPLIES = "replies.jsonl"

T = TypeVar("T")
# Shows how far it is: what is asked, how many of them there are, and each of them as it comes.
Progress = Callable[[str, int, Iterable[T]], Iterable[T]]


@dataclass(frozen=True)
class Judging:
    """What a judge is asked.

    Args:
        limit: The first questions of each condition; all where None.
        pairs: Whether every two systems' answers are compared.
        sample: How many answers the audit is of; None for no audit.
    """

    limit: int | None = None
    pairs: bool = False
    sample: int | None = None


def judging_in(folder: Path) -> AbstractContextManager[None]:
    """Nobody else judges into the folder meanwhile. Raises UserError where somebody does."""
    refusal = f"{folder}: another judge is writing there; wait for it, or give another --out"
    return sole_writer(folder / JUDGING_LOCK, refusal)


def judge_exam(judge: Judge, exam: Exam, folder: Path, wanted: Judging, progress: Progress) -> tuple[list[Grade], list[Pair]]:
    """Grade an exam's answers into grades.jsonl, and pairs of them into pairs.jsonl; what is there already is not asked again.

    Returns:
        All grades in the file, others' too, in the order of the exam's answers; and this judge's pairs.

    Raises:
        UserError: The judge is not there or refuses, has other weights than before, or a file is damaged. What it had replied
            is kept.
    """
    answers = first_questions(exam.answers, wanted.limit)
    grades_path, pairs_path = folder / GRADES, folder / PAIRS
    kept = GradesFile(grades_path, exam.task.name)
    sheets = [*map(Sheet, answers), *(audit_sheets(answers, wanted.sample) if wanted.sample is not None else ())]
    there = read_grades(grades_path, exam.task.name, exam.answers)
    refuse_other_weights(there, judge, grades_path)
    missing = _ungraded(sheets, there, judge.name)
    for _, grade in progress("grading", len(missing), judge.arriving(missing)):
        kept.add(signed(grade, judge))
    if wanted.pairs:
        pairs_file = PairsFile(pairs_path, exam.task.name)
        known = {pair.key for pair in read_pairs(pairs_path, exam.task.name, exam.answers, judge.name)}
        pairs = [pair for pair in pairs_of(answers) if pair_key(*pair) not in known]
        for pair in progress("comparing", len(pairs), compare(judge, pairs)):
            pairs_file.add(pair)
    compared = read_pairs(pairs_path, exam.task.name, exam.answers, judge.name) if pairs_path.is_file() else []
    order = {key(answer): number for number, answer in enumerate(exam.answers)}
    grades = read_grades(grades_path, exam.task.name, exam.answers)
    return sorted(grades, key=lambda grade: order[key(grade.answer)]), compared


def signed(grade: Grade, judge: Judge) -> Grade:
    """A grade with the judge's weights, where they are known."""
    return replace(grade, details={**grade.details, "weights": judge.weights}) if judge.weights else grade


def refuse_other_weights(grades: Sequence[Grade], judge: Judge, path: Path) -> None:
    """Raise UserError where a judge of this name graded with other weights: nothing would be asked of the ones of today."""
    for grade in grades:
        before = grade.details.get("weights", judge.weights)
        if (grade.kind, grade.grader) == ("judge", judge.name) and before != judge.weights:
            raise UserError(f"{path}: the grades there are of other weights of {judge.name}; give another --out")


def first_questions(answers: Sequence[Answer], limit: int | None) -> list[Answer]:
    """The answers to the first questions of each condition, every system's."""
    numbers: dict[object, dict[str, None]] = {}
    for answer in answers:
        numbers.setdefault(answer.condition, {})[answer.question.id] = None
    wanted = {condition: set(list(questions)[:limit]) for condition, questions in numbers.items()}
    return [answer for answer in answers if answer.question.id in wanted[answer.condition]]


def cost(usage: object, price_in: float | None, price_out: float | None) -> str:
    """What a judge has used, and for how much where prices of a million tokens are given."""
    prompt, completion = (int(getattr(usage, name, 0)) for name in ("prompt_tokens", "completion_tokens"))
    words = f"{prompt:,} tokens read and {completion:,} written in this run"
    if price_in is None and price_out is None:
        return words
    return f"{words}, {(prompt * (price_in or 0) + completion * (price_out or 0)) / 1e6:.2f} at the given prices"


def _ungraded(sheets: Sequence[Sheet], grades: Sequence[Grade], judge: str) -> list[Sheet]:
    """The sheets that this judge has not graded yet with the prompt of today."""
    known = {
        (key(grade.answer), grade.round, grade.shown)
        for grade in grades
        if grade.kind == "judge" and grade.grader == judge and grade.details.get("prompt") == VERSION
    }
    return [sheet for sheet in sheets if (key(sheet.answer), sheet.round, sheet.shown) not in known]
