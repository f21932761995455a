"""An exam's folder: what was asked of whom, and the answers. A second run of the same exam asks only what is missing."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mplug_owl.errors import UserError
from mplug_owl.eval import tasks
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.answers_file import AnswersFile
from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.task import Task
from mplug_owl.writing import replacing, sole_writer, writing

SETTINGS, ANSWERS, GRADES = "exam.json", "answers.jsonl", "grades.jsonl"
# Whoever grades holds one of these.
RATING_LOCK, JUDGING_LOCK = f".{GRADES}.lock", ".judge.lock"
# An exam with grades that begins anew leaves these of the former one in a folder of this name and a number.
FORMER, OF_ANSWERS = "former", (SETTINGS, ANSWERS, GRADES, "pairs.jsonl", "passport.json", "scores.json")


@dataclass(frozen=True)
class ExamSettings:
    """What decides an exam's answers: they resume only where all of it is the same.

    Args:
        task: The task's name.
        data: What the task reads; None where it reads nothing.
        model: The name that tables call the model by.
        weights: A digest of the model's files, empty where they are elsewhere.
        limit: How many questions; None for all.
        seed: That of the questions.
        max_new_tokens: How long an answer gets.
    """

    task: str
    data: str | None
    model: str
    weights: str = ""
    limit: int | None = None
    seed: int = 0
    max_new_tokens: int = 48


@dataclass(frozen=True)
class Exam:
    """What several systems answered to one task, one after another."""

    task: Task
    answers: tuple[Answer, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Who answered, in the order in which they were named."""
        return tuple(dict.fromkeys(answer.model for answer in self.answers))


@contextmanager
def open_exam(folder: Path, settings: ExamSettings, fresh: bool = False) -> Iterator[AnswersFile]:
    """An exam's answers, to add to; nobody else writes there meanwhile.

    Args:
        folder: Where exam.json and answers.jsonl are, or will be.
        settings: What is asked of whom.
        fresh: Begin anew, whatever is there. Grades are work: where there are any, the former exam is kept in former-N.

    Raises:
        UserError: Another exam is in the folder, or another process is writing there, or grading what would begin anew.
        WriteError: The folder cannot be written.
    """
    refusal = f"{folder}: another exam is writing there; wait for it, or give another --out"
    with sole_writer(folder / ".lock", refusal):
        saved = folder / SETTINGS
        if fresh:
            busy = f"{folder}: its answers are being graded; wait for owl rate and owl judge, or give another --out"
            with sole_writer(folder / RATING_LOCK, busy), sole_writer(folder / JUDGING_LOCK, busy):
                _clear(folder)
        if saved.is_file():
            _compare(read_settings(folder), settings, saved)
        elif (folder / ANSWERS).exists():
            raise UserError(f"{folder}: has answers but no {SETTINGS} that says to what; give another --out, or --fresh")
        else:
            with writing(saved), replacing(saved) as new:
                new.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
        yield AnswersFile(folder / ANSWERS, settings.task, settings.model)


def _clear(folder: Path) -> None:
    """Take the exam out of its folder: into former-N with what people and judges said of its answers, else for good."""
    if not (folder / GRADES).is_file():
        for name in (ANSWERS, SETTINGS):
            (folder / name).unlink(missing_ok=True)
        return
    number = next(number for number in itertools.count(1) if not (folder / f"{FORMER}-{number}").exists())
    former = folder / f"{FORMER}-{number}"
    with writing(former):
        former.mkdir()
        for name in OF_ANSWERS:
            if (folder / name).is_file():
                (folder / name).rename(former / name)


def read_settings(folder: Path) -> ExamSettings:
    """What an exam's folder says of itself. Raises UserError where it is none."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: no {SETTINGS} there; expected the folder of an exam, as owl eval writes it")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kinds: dict[str, Any] = {one.name: one.type for one in fields(ExamSettings)}
        made = ExamSettings(**{name: value for name, value in values.items() if name in kinds})
        if wrong := [name for name, kind in kinds.items() if not isinstance(getattr(made, name), kind)]:
            raise ValueError(f"{wrong[0]} is {getattr(made, wrong[0])!r:.80}")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); expected what owl eval writes") from error
    return made


def folder_of(entries: Sequence[str]) -> Path | None:
    """The folder of the only exam that is named: grades of its answers belong there. None for several, and for a file."""
    return Path(entries[0]) if len(entries) == 1 and Path(entries[0]).is_dir() else None


def read_exam(
    entries: Sequence[str],
    task: str | None = None,
    data: Path | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Exam:
    """The answers of several systems to one task.

    Args:
        entries: An exam's folder or a file of answers each, as it is or as NAME=PATH with the name that tables call it by.
        task: The task that files of answers are about; the folders say it themselves.
        data: What the task reads, where no folder says it or it has moved.
        note: Takes a sentence about what is odd.

    Raises:
        UserError: An entry is neither, two are about different tasks or questions or called the same, or a file is damaged.
    """
    named = [_named(entry) for entry in entries]
    found = [(name, path, read_settings(path) if path.is_dir() else None) for name, path in named]
    saved = [settings for _, _, settings in found if settings is not None]
    names = dict.fromkeys([*([task] if task else []), *(settings.task for settings in saved)])
    if len(names) > 1:
        raise UserError(f"exams of {' and '.join(names)} cannot stand in one table; name those of one task")
    read_from = list(dict.fromkeys(settings.data for settings in saved))
    if data is None and len(read_from) > 1:
        raise UserError(f"the exams read {' and '.join(map(str, read_from))}; if they ask the same, --data names one of them")
    where = data or (Path(read_from[0]) if read_from and read_from[0] is not None else None)
    asked = tasks.find(next(iter(names), "owleval"), where)
    answers: list[Answer] = []
    for name, path, settings in found:
        file = path / ANSWERS if settings is not None else path
        count, seed = (settings.limit, settings.seed) if settings is not None else (None, 0)
        read = read_answers(file, asked, count, seed, note)
        called = name or read[0].model
        if called in {answer.model for answer in answers}:
            raise UserError(f"{path}: a second system called {called}; give it another name, NAME={path}")
        _refuse_other_questions(answers, read, path)
        answers += [Answer(one.question, one.condition, one.turns, called) for one in read]
    return Exam(asked, tuple(answers))


def _refuse_other_questions(answers: Sequence[Answer], read: Sequence[Answer], path: Path) -> None:
    """Raise UserError where an id means another question than before: what is drawn goes by the limit too."""
    known = {(one.condition, one.question.id): one.question.turns for one in answers}
    for one in read:
        if known.get((one.condition, one.question.id), one.question.turns) != one.question.turns:
            raise UserError(
                f"{path}: its question {one.question.id} is another one than in the entries before; drawn questions stand in "
                "one table where --limit and --seed were the same"
            )


def fingerprint(folder: str | Path) -> str:
    """A digest of a model's files by name, size and time; empty where it is no folder here."""
    path = Path(folder)
    if not path.is_dir():
        return ""
    known = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in path.iterdir() if file.is_file())
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def _compare(there: ExamSettings, now: ExamSettings, path: Path) -> None:
    """Raise UserError that names the first setting in which two exams differ."""
    for name, value in asdict(now).items():
        if (before := asdict(there)[name]) != value:
            if name == "weights":
                raise UserError(
                    f"{path}: the answers there are of other weights of {now.model}; give another --out, or --fresh"
                )
            raise UserError(f"{path}: another exam, {name} {before} there and {value} now; give another --out, or --fresh")


def _named(entry: str) -> tuple[str | None, Path]:
    """NAME=PATH, or a path alone, whose folder or file has to exist."""
    if Path(entry).exists():
        return None, Path(entry)
    name, mark, path = entry.partition("=")
    if mark and name and Path(path).exists():
        return name, Path(path)
    raise UserError(f"{entry}: no such file or folder; expected an exam's folder, a file of answers, or NAME=PATH of one")
