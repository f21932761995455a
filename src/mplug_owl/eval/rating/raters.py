"""Everybody who grades: a grade is on the disk before the next answer is shown, and the file alone says how far each is."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Literal

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import LETTERS, Letter, lettered
from mplug_owl.eval.grades_file import ACTION, SKIP, UNDO, GradesFile, Key, key
from mplug_owl.eval.lines import read_lines
from mplug_owl.eval.rating.people import Event, Item, Progress, agreement, order
from mplug_owl.writing import sole_writer

# A name stands in an address and in every line of the file.
NAME = re.compile(r"\w[\w .'-]{0,39}")
# What came of a click: graded; changed, where the item had another grade; same, where it had this one already; stale, where
# the page showed what is no longer current; unknown, where no such item is there; nothing, where nothing could be undone.
Outcome = Literal["graded", "changed", "same", "skipped", "undone", "nothing", "stale", "unknown"]


@dataclass(frozen=True)
class Summary:
    """What one person has graded. Pairs are counts of the same grades and of all.

    Args:
        name: The person's.
        graded: How many answers, second showings left out.
        left: How many items are still to be graded, second showings among them.
        repeated: The grades given twice to one answer, and how many of them are the same.
        gold: The grades of answers whose grade was known, likewise.
    """

    name: str
    graded: int
    left: int
    repeated: tuple[int, int]
    gold: tuple[int, int]


@dataclass
class Raters:
    """All who grade one exam's answers. Threads may use it at once.

    Args:
        task: The task's name.
        answers: What everybody is shown.
        path: grades.jsonl.
        seed: Another seed shuffles otherwise.
        repeat: The share of answers that is shown twice.
        gold: The known grades of some answers.

    Raises:
        UserError: The file is damaged.
    """

    task: str
    answers: Sequence[Answer]
    path: Path
    seed: int = 0
    repeat: float = 0.1
    gold: Mapping[Key, Letter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._progress: dict[str, Progress] = {}
        self._file = GradesFile(self.path, self.task)  # cuts off what a crash left of a last line
        for _, row in read_lines(self.path):
            if row.get("kind") == "person" and isinstance(row.get("grader"), str):
                self._replay(row)

    def progress(self, name: str) -> Progress:
        """How far somebody is, by a name in which capitals do not count. Raises UserError where it cannot be a name."""
        name = unicodedata.normalize("NFC", " ".join(name.split()))
        if not NAME.fullmatch(name):
            raise UserError(
                "a name has 1 to 40 letters, digits, spaces, dots, hyphens and apostrophes, a letter or digit first"
            )
        with self._lock:
            return self._found(name)

    def grade(self, person: Progress, item: str, letter: Letter) -> Outcome:
        """Grade an item. The last grade of an item counts, and a second click on the same one changes nothing."""
        with self._lock:
            if item not in person.by_id:
                return "unknown"
            before = person.graded.get(item)
            if before == letter:
                return "same"
            self._write(person, person.by_id[item], letter)
            person.events.append(Event(person.by_id[item], letter))
            return "graded" if before is None else "changed"

    def skip(self, person: Progress, item: str) -> Outcome:
        """Send the current item to the end."""
        with self._lock:
            current = person.current
            if current is None or current.id != item:
                return "stale"
            self._write(person, current, None, SKIP)
            person.events.append(Event(current, None))
            return "skipped"

    def undo(self, person: Progress, item: str) -> Outcome:
        """Take the last grade or skip back. `item` is what the page showed, empty after the last one."""
        with self._lock:
            current = person.current
            if (current.id if current else "") != item:
                return "stale"
            undone = person.take_back()
            if undone is None:
                return "nothing"
            try:
                self._write(person, undone[0].item, undone[1], UNDO)
            except OSError:
                person.events.append(undone[0])
                raise
            return "undone"

    def summaries(self) -> list[Summary]:
        """What each person has graded, of those who have graded anything."""
        with self._lock:
            return [self.summary(person) for person in self._progress.values() if person.events]

    def summary(self, person: Progress) -> Summary:
        """What one person has graded so far."""
        graded = person.graded
        first = {key(item.answer): graded.get(item.id) for item in person.items if item.round == 0}
        second = {key(item.answer): graded.get(item.id) for item in person.items if item.round == 1}
        return Summary(
            person.name,
            sum(letter is not None for letter in first.values()),
            len(person.waiting),
            agreement((first[one], again) for one, again in second.items()),
            agreement((first.get(one), letter) for one, letter in self.gold.items()),
        )

    def _found(self, name: str) -> Progress:
        folded = name.casefold()
        if folded not in self._progress:
            self._progress[folded] = Progress(name, order(self.answers, folded, self.seed, self.repeat))
        return self._progress[folded]

    def _write(self, person: Progress, item: Item, letter: Letter | None, action: str | None = None) -> None:
        grade = lettered(item.answer, letter, person.name, "person")
        self._file.add(replace(grade, round=item.round, details={ACTION: action} if action else {}))

    def _replay(self, row: Mapping[str, object]) -> None:
        """One line of the file, as it was done. Lines about what is not shown now are left alone."""
        person = self._found(str(row["grader"]))
        model, split, mode, question = (str(row.get(name)) for name in ("model_id", "split", "mode", "question_id"))
        number = row.get("round", 0)
        item = person.by_answer.get(((model, split, mode, question), number)) if isinstance(number, int) else None
        if item is None:
            return
        details = row.get("details")
        action = details.get(ACTION) if isinstance(details, dict) else None
        letter = next((one for one in LETTERS if one == row.get("grade")), None)
        if action == UNDO:
            last = next((index for index in reversed(range(len(person.events))) if person.events[index].item == item), None)
            if last is not None:
                del person.events[last]
        elif action == SKIP or letter is not None:
            person.events.append(Event(item, letter))


def alone(path: Path) -> AbstractContextManager[None]:
    """Nobody else serves this file meanwhile. Raises UserError where somebody does."""
    refusal = f"{path}: another owl rate is writing there; use its page, or give another --out"
    return sole_writer(path.with_name(f".{path.name}.lock"), refusal)


def shown(answers: Iterable[Answer]) -> list[Answer]:
    """The answers that have any words: an empty one is known to be none, and nobody has to look at it."""
    return [answer for answer in answers if answer.text.strip()]
