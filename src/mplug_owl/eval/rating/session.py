"""A session of grading from beginning to end: read the answers, serve the page, and report who graded how many."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grade import Letter
from mplug_owl.eval.grades_file import Key, key, read_grades
from mplug_owl.eval.rating.gold import read_gold
from mplug_owl.eval.rating.people import chosen
from mplug_owl.eval.rating.raters import Raters, Summary, alone, shown


@dataclass(frozen=True)
class RatingSettings:
    """What a session of grading is.

    Args:
        out: grades.jsonl, where a session resumes.
        gold: A file of known grades.
        seed: Another one shuffles otherwise, and chooses others where there is a limit.
        repeat: The share of answers that everybody is shown twice.
        limit: How many answers are graded; None for all.
        rater: The one person who grades; None asks for a name.
        host: The address to listen on.
        port: Its port; 0 takes a free one.
    """

    out: Path
    gold: Path | None = None
    seed: int = 0
    repeat: float = 0.1
    limit: int | None = None
    rater: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000


def rate_answers(exam: Exam, settings: RatingSettings) -> None:
    """Serve the page on which people grade an exam's answers, until Ctrl-C.

    Raises:
        UserError: A file is damaged, nothing is there to grade, a package is missing, or the port cannot be had.
    """
    try:
        from mplug_owl.eval.rating.server import is_local, serve
    except ModuleNotFoundError as error:
        raise UserError(f"owl rate needs {error.name}: pip install 'mplug-owl[serve]'") from error
    with alone(settings.out):
        raters = prepare(exam, settings)
        if settings.rater is not None:
            raters.progress(settings.rater)
        for sentence in warnings(raters.answers):
            note(sentence)
        if not is_local(settings.host):
            note(f"{settings.host}: anybody who reaches this machine in the network can grade, under any name")
        systems = f"{len(exam.models)} systems" if len(exam.models) > 1 else "1 system"
        print(f"{len(raters.answers)} answers, {systems}; grades go to {settings.out}")
        serve(
            raters,
            settings.host,
            settings.port,
            settings.rater,
            lambda address: print(f"{address} (Ctrl-C ends it)", flush=True),
        )
        for line in closing(raters.summaries(), len(exam.answers) - len(shown(exam.answers))):
            print(line)
    print(settings.out)


def prepare(exam: Exam, settings: RatingSettings) -> Raters:
    """Who grades which of an exam's answers. Answers with known grades are always among them."""
    added: list[Answer] = []
    known: dict[Key, Letter] = {}
    if settings.gold is not None:
        added, known = read_gold(settings.gold, exam.task, exam.answers)
        if not known:
            raise UserError(
                f"{settings.gold}: knows the grade of no answer here; expected grades of these systems, or answers of its own, "
                "those to earlier turns among them"
            )
    there = shown(exam.answers)
    graded = {key(answer): answer for answer in chosen(there, settings.limit, settings.seed)}
    graded |= {key(answer): answer for answer in [*there, *added] if key(answer) in known}
    if not graded:
        raise UserError(f"{', '.join(exam.models)}: every answer is empty, so there is nothing to grade")
    if settings.out.is_file():
        read_grades(settings.out, exam.task.name, [*exam.answers, *added])  # for its complaints
    return Raters(exam.task.name, list(graded.values()), settings.out, settings.seed, settings.repeat, known)


def warnings(answers: Sequence[Answer]) -> list[str]:
    """What somebody should know before people grade: which answers give their system away."""
    telling = [answer for answer in answers if _bare(answer.model) in _bare(" ".join(answer.turns))]
    if not telling:
        return []
    models = ", ".join(dict.fromkeys(answer.model for answer in telling))
    return [f"answers that name the system that gave them ({models}), shown as they are: {len(telling)}"]


def closing(summaries: Sequence[Summary], empty: int) -> list[str]:
    """A line for each person, and one about the answers that nobody saw."""
    lines = []
    for one in summaries:
        line = f"{one.name}: {one.graded} graded, {one.left} left"
        for (same, both), words in ((one.repeated, "graded the same twice"), (one.gold, "as the known grades")):
            line += f", {same} of {both} {words}" if both else ""
        lines.append(line)
    if empty:
        lines.append(f"empty answers, not shown and without a grade: {empty}")
    return lines or ["nobody has graded anything"]


def _bare(words: str) -> str:
    return "".join(letter for letter in words.casefold() if letter.isalnum())


def note(sentence: str) -> None:
    """Say what is odd, beside what is printed."""
    print(f"owl: {sentence}", file=sys.stderr)
