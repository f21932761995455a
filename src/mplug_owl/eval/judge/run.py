"""`owl judge` from names to a passport: who judges whose answers, where the grades go, and what is shown at the end."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mplug_owl.chat import find
from mplug_owl.errors import UserError
from mplug_owl.eval.exam import weights_digest
from mplug_owl.eval.exam_folder import folder_of, read_exam
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.grades_file import latest, read_grades
from mplug_owl.eval.judge.judge import Judge
from mplug_owl.eval.judge.judging import REPLIES, Judging, cost, judge_exam, judging_in
from mplug_owl.eval.judge.judging import Progress as ShowsProgress
from mplug_owl.eval.judge.pairs import Pair
from mplug_owl.eval.judge.passport import Passport, passport
from mplug_owl.eval.judge.passport_table import show_letters, show_passport
from mplug_owl.eval.judge.reply_cache import ReplyCache
from mplug_owl.eval.judge.text import score_exam
from mplug_owl.eval.judge.text_table import show_text
from mplug_owl.eval.tasks.text import NAME as TEXT
from mplug_owl.writing import replacing, writing

PASSPORT = "passport.json"


@dataclass(frozen=True)
class JudgeRun:
    """One run of `owl judge`.

    Args:
        judge: A name that `chat.find` knows.
        entries: Exams' folders or files of answers, NAME=PATH where tables call them otherwise.
        judging: What the judge is asked.
        task: What files of answers are about.
        data: What the task reads.
        out: Where the grades go.
        people: Files with people's grades of the same answers.
        price_in: Of a million tokens that are read.
        price_out: Of a million tokens that are written.
        device: Where a judge that runs here goes.
    """

    judge: str
    entries: tuple[str, ...]
    judging: Judging
    task: str | None = None
    data: Path | None = None
    out: Path | None = None
    people: tuple[Path, ...] = ()
    price_in: float | None = None
    price_out: float | None = None
    device: str | None = None


def run_judge(run: JudgeRun) -> Path:
    """Grade, audit and compare what is missing; show the grades beside the passport; return the folder that has them.

    Raises:
        UserError: There is no such judge or exam, or the judge's server is down. What it had graded is kept.
    """
    notes = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    exam = read_exam(run.entries, run.task, run.data, notes.print)
    if exam.task.name == TEXT and run.people:
        raise UserError(f"{TEXT}: its scores go from 1 to 10 and are not compared with people's grades; leave --people out")
    name = judge_name(run.judge)
    common = Path("runs") / re.sub(r"[^\w.+-]+", "-", f"judge-{exam.task.name}-{name}")
    folder = run.out or folder_of(run.entries) or common
    others = [grade for path in run.people for grade in read_grades(path, exam.task.name, exam.answers)]
    with judging_in(folder):
        model = find(run.judge, run.device)
        weights = weights_digest(run.judge)
        judge = Judge(model, name, ReplyCache(folder / REPLIES), identity=_identity(run.judge), weights=weights)
        try:
            with _bar() as watch:
                if exam.task.name == TEXT:
                    tables = score_exam(judge, exam, folder, run.judging, watch)
                else:
                    grades, pairs = judge_exam(judge, exam, folder, run.judging, watch)
        finally:
            if (used := getattr(model, "usage", None)) is not None:
                notes.print(cost(used, run.price_in, run.price_out))
        if exam.task.name == TEXT:
            show_text(tables, Console(markup=False, emoji=False))
            return folder
        made = _shown(latest([*grades, *others]), pairs, name)
        with writing(folder / PASSPORT), replacing(folder / PASSPORT) as new:
            new.write_text(json.dumps(made.row(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def judge_name(judge: str) -> str:
    """What grades call a judge: a server's model by its name there, any other by what was typed."""
    return urlsplit(judge).fragment if "://" in judge and urlsplit(judge).fragment else judge.removeprefix("hf:")


def _identity(judge: str) -> str:
    """What a judge's replies are kept under: where it is, and which weights it has."""
    if "://" in judge:
        return urlsplit(judge)._replace(query="").geturl()
    return f"{judge} {weights_digest(judge)}"


@contextmanager
def _bar() -> Iterator[ShowsProgress]:
    """A bar of what is missing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)

        def watch(what: str, count: int, items: Iterable) -> Iterator:
            progress.reset(bar, total=count, description=what)
            for item in items:
                progress.advance(bar)
                yield item

        yield watch


def _shown(grades: Sequence[Grade], pairs: Sequence[Pair], name: str) -> Passport:
    """The judge's grades and its passport on the screen: the one is not shown without the other."""
    made, console = passport(grades, pairs, name), Console(markup=False, emoji=False)
    if not any(grade.letter is not None for grade in grades if grade.grader == name):
        raise UserError(
            f"{name}: none of its replies ends with GRADE: and a letter; they are kept, see details in grades.jsonl"
        )
    show_letters(grades, made, console)
    show_passport(made, console)
    return made
