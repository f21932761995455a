"""What a report is about: entries' answers, the grades beside them and in other files, and pairs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.exam_folder import GRADES, Exam, read_exam, read_settings
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.grades_file import latest, read_grades
from mplug_owl.eval.judge.pairs import PAIRS, Pair, read_pairs


def gather(
    entries: Sequence[str],
    grades_files: Sequence[Path] = (),
    task: str | None = None,
    data: Path | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> tuple[Exam, list[Grade], list[Pair]]:
    """The answers of these entries, their grades, and pairs of them that a judge compared.

    Args:
        entries: Exams' folders and files of answers, as `read_exam` takes them.
        grades_files: Files of grades, or folders with a grades.jsonl; those of the entries' own folders are read besides. A
            pairs.jsonl beside any of them is read too.
        task: What files of answers are about.
        data: What the task reads, where no folder says it.
        note: Takes a sentence about what is odd.

    Raises:
        UserError: As `read_exam` and `read_grades` do, or a file has no grade of any of these answers.
    """
    exam = read_exam(entries, task, data, note)
    found: list[Grade] = []
    beside: dict[Path, None] = {}
    for entry, called in zip(entries, exam.models, strict=True):
        folder = Path(entry) if Path(entry).exists() else Path(entry.partition("=")[2])
        beside[folder] = None
        if (folder / GRADES).is_file():
            found += _read(folder / GRADES, exam, called, read_settings(folder).model)
    for given in grades_files:
        beside[given if given.is_dir() else given.parent] = None
        read = _read(given / GRADES if given.is_dir() else given, exam)
        if not read:
            raise UserError(f"{given}: grades none of these answers; expected model_id among {', '.join(exam.models)}")
        found += read
    if exam.task.grader is not None:
        found += exam.task.grader.grades(exam.answers)
    compared = [read_pairs(folder / PAIRS, exam.task.name, exam.answers) for folder in beside if (folder / PAIRS).is_file()]
    return exam, latest(found), list({(one.judge, one.key): one for pairs in compared for one in pairs}.values())


def _read(path: Path, exam: Exam, called: str = "", known_as: str = "") -> list[Grade]:
    """A file's grades. A system that the report calls otherwise than its folder does is found by its folder's name.

    Another system that the report calls so is none of the folder's.
    """
    renamed: dict[int, Answer] = {}
    asked = []
    for answer in exam.answers:
        if answer.model == known_as != called:
            continue
        before = replace(answer, model=known_as) if known_as and answer.model == called else answer
        renamed[id(before)] = answer
        asked.append(before)
    return [replace(grade, answer=renamed[id(grade.answer)]) for grade in read_grades(path, exam.task.name, asked)]
