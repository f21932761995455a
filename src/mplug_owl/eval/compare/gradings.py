"""One grade an answer from each group of graders, and how many answers of a system got which letter.

People are one group, each judge, metric and file is one of its own: they are never mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import ACCEPTABLE, LETTERS, Grade, Kind
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.statistics import Share, counted, share

NAMES: dict[Kind, str] = {"person": "people", "judge": "judge", "metric": "metric", "file": "file"}
MEDIAN = "the middle letter of each answer's graders, of two middle ones the worse"


@dataclass(frozen=True)
class Grading:
    """What one group of graders found.

    Args:
        kind: People, a judge, a metric or a file.
        graders: Their names.
        grades: One for each answer that somebody graded.
        several: How many of them come from several graders.
    """

    kind: Kind
    graders: tuple[str, ...]
    grades: tuple[Grade, ...]
    several: int = 0

    @property
    def title(self) -> str:
        """Who graded, as tables say it."""
        return f"{NAMES[self.kind]} {', '.join(self.graders)}"

    @property
    def lettered(self) -> bool:
        """Whether the grades are letters, rather than scores."""
        return any(grade.letter is not None for grade in self.grades) or all(grade.score is None for grade in self.grades)

    @property
    def rule(self) -> str:
        """How several graders' letters became one."""
        many = f"{self.several} answers have several graders, and count by {MEDIAN}"
        return many if self.several else "one grader an answer"


@dataclass(frozen=True)
class LetterCounts:
    """What a system's answers got.

    Args:
        counts: How many got A, B, C and D.
        acceptable: How many of those got A or B.
        unscored: Answers that were graded without a letter, such as a judge's reply that nobody could read.
        unanswered: Questions to which the system gave no answer. Never D, whoever graded them.
        ungraded: Answers that nobody in the group graded.
    """

    counts: tuple[int, ...]
    acceptable: Share
    unscored: int = 0
    unanswered: int = 0
    ungraded: int = 0

    @property
    def graded(self) -> int:
        """How many answers have a letter."""
        return sum(self.counts)


def gradings(grades: Sequence[Grade]) -> list[Grading]:
    """The groups of graders, in the order of their first grades, and one grade an answer from each."""
    groups: dict[tuple[Kind, str], list[Grade]] = {}
    for grade in counted(grades):
        groups.setdefault((grade.kind, "" if grade.kind == "person" else grade.grader), []).append(grade)
    return [_grading(kind, found) for (kind, _), found in groups.items()]


def letter_counts(answers: Sequence[Answer], grades: Sequence[Grade]) -> LetterCounts:
    """How many of these answers got which letter, by grades of which each answer has one at most."""
    found = {key(grade.answer): grade for grade in grades}
    given = [answer for answer in answers if answer.text]
    graded = [found[key(answer)] for answer in given if key(answer) in found]
    letters = [grade for grade in graded if grade.letter is not None]
    return LetterCounts(
        tuple(sum(grade.letter == letter for grade in letters) for letter in LETTERS),
        share(letters),
        len(graded) - len(letters),
        len(answers) - len(given),
        len(given) - len(graded),
    )


def _grading(kind: Kind, grades: Sequence[Grade]) -> Grading:
    """Several graders of an answer become one."""
    by_answer: dict[Key, list[Grade]] = {}
    for grade in grades:
        by_answer.setdefault(key(grade.answer), []).append(grade)
    names = tuple(dict.fromkeys(grade.grader for grade in grades))
    made = tuple(found[0] if len(found) == 1 else _middle(found, kind) for found in by_answer.values())
    return Grading(kind, names, made, sum(len(found) > 1 for found in by_answer.values()))


def _middle(grades: Sequence[Grade], kind: Kind) -> Grade:
    """The middle letter: that of the majority where there is one. Who gave none is left out."""
    letters = sorted(grade.letter for grade in grades if grade.letter is not None)
    letter = letters[len(letters) // 2] if letters else None
    names = ", ".join(grade.grader for grade in grades)
    return Grade(grades[0].answer, None if letter is None else float(letter in ACCEPTABLE), letter, names, kind)
