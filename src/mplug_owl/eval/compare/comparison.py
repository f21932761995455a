"""What is known of several systems' answers to one task: who answered how much, and what each group of graders says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Literal

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.compare.gradings import Grading, LetterCounts, gradings, letter_counts
from mplug_owl.eval.compare.paired import PairedDifference, paired_differences
from mplug_owl.eval.compare.ranking import Match, Strength, strengths
from mplug_owl.eval.compare.rater_agreement import Agreement, between_raters, test_retest
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.judge.pairs import Pair
from mplug_owl.eval.judge.passport import Passport, passport
from mplug_owl.eval.statistics import OVERALL, Figures, figures, share
from mplug_owl.eval.task import Condition

# Ours count a question once, under the ability that decides it; the released labels name all that it needs.
Labels = Literal["ours", "released"]
BOTH = "all"


@dataclass(frozen=True)
class Entry:
    """A system: its name, how many of its answers have words, how many it was asked for, and how long they are."""

    system: str
    answered: int
    asked: int
    mean_words: float


@dataclass(frozen=True)
class Half:
    """A condition, or all of them.

    Args:
        title: The condition's.
        counts: What each system got in it.
        paired: Every two systems against each other.
        abilities: A or B by ability, a column a system.
    """

    title: str
    counts: tuple[tuple[str, LetterCounts], ...]
    paired: tuple[PairedDifference, ...]
    abilities: Figures


@dataclass(frozen=True)
class GradingFigures:
    """What one group of graders says.

    Args:
        grading: Who they are, and their grades.
        halves: Each condition, and then all of them where there are several; empty where scores are no letters.
        tables: A or B by ability in all conditions, a column a system; means of scores where they are no letters.
        agreement: Of people with each other and with themselves.
        passport: What is known of a judge.
    """

    grading: Grading
    halves: tuple[Half, ...]
    tables: tuple[Figures, ...]
    agreement: tuple[Agreement, ...] = ()
    passport: Passport | None = None


@dataclass(frozen=True)
class Ranking:
    """What one judge's pairs say: strengths, how many pairs, how many of those flipped with the order or were unreadable."""

    judge: str
    strengths: tuple[Strength, ...]
    pairs: int
    flipped: int
    unread: int


@dataclass(frozen=True)
class Comparison:
    """Several systems and what is known of them."""

    exam: Exam
    entries: tuple[Entry, ...]
    gradings: tuple[GradingFigures, ...]
    rankings: tuple[Ranking, ...]
    labels: Labels

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those in which somebody answered, in the task's order."""
        seen = {answer.condition for answer in self.exam.answers}
        return tuple(condition for condition in self.exam.task.conditions if condition in seen)


def compare(exam: Exam, grades: Sequence[Grade], pairs: Sequence[Pair] = (), labels: Labels = "ours") -> Comparison:
    """The figures of several systems. Each group of graders has its own: they are never mixed."""
    made = []
    for one in gradings(grades):
        figures_of = _grading_figures(exam, one, grades, labels)
        if one.kind == "judge" and figures_of.halves:
            figures_of = replace(figures_of, passport=passport(grades, pairs, one.graders[0]))
        made.append(figures_of)
    rankings = [_ranking(judge, pairs) for judge in dict.fromkeys(pair.judge for pair in pairs)]
    entries = tuple(_entry(exam, system) for system in exam.models)
    return Comparison(exam, entries, tuple(made), tuple(rankings), labels)


def by_ability(grades: Sequence[Grade], systems: Sequence[str], labels: Labels) -> Figures:
    """The share of A or B by ability, a column a system and a row an ability, over all conditions together."""
    found: dict[str, None] = {}
    for grade in grades:
        found |= dict.fromkeys(_abilities(grade.answer, labels))
    rows = []
    for ability in (*sorted(found), OVERALL):
        here = [grade for grade in grades if ability == OVERALL or ability in _abilities(grade.answer, labels)]
        rows.append((ability, tuple(share([one for one in here if one.answer.model == system]) for system in systems)))
    return Figures("By ability", tuple(systems), tuple(rows), correct="A or B")


def _grading_figures(exam: Exam, grading: Grading, grades: Sequence[Grade], labels: Labels) -> GradingFigures:
    """The figures of one group of graders."""
    if not grading.lettered:
        return GradingFigures(grading, (), tuple(_named(made, exam.models) for made in figures(grading.grades)))
    asked = [one for one in exam.task.conditions if any(answer.condition == one for answer in exam.answers)]
    halves = [_half(exam, one.title, [one], grading, labels) for one in asked]
    if len(asked) > 1:
        halves.append(_half(exam, BOTH, asked, grading, labels))
    agreement = [between_raters(grades), test_retest(grades)] if grading.kind == "person" else []
    found = tuple(one for one in agreement if one is not None)
    return GradingFigures(grading, tuple(halves), (halves[-1].abilities,), found)


def _half(exam: Exam, title: str, conditions: Sequence[Condition], grading: Grading, labels: Labels) -> Half:
    """What these conditions' answers got."""
    grades = [grade for grade in grading.grades if grade.answer.condition in conditions]
    counts = [(system, letter_counts(_of(exam, system, conditions), grades)) for system in exam.models]
    given = [grade for grade in grades if grade.answer.text]
    return Half(title, tuple(counts), tuple(paired_differences(grades)), by_ability(given, exam.models, labels))


def _named(made: Figures, systems: Sequence[str]) -> Figures:
    """The one column there is has the one system's name."""
    return replace(made, columns=tuple(systems)) if len(made.columns) == len(systems) == 1 else made


def _ranking(judge: str, pairs: Sequence[Pair]) -> Ranking:
    """The strengths of those systems that one judge compared."""
    mine = [pair for pair in pairs if pair.judge == judge]
    read = [
        Match(pair.first.model, pair.second.model, pair.verdict, pair.first.question.cluster)
        for pair in mine
        if pair.verdict is not None
    ]
    return Ranking(judge, tuple(strengths(read)), len(mine), sum(pair.flipped for pair in mine), len(mine) - len(read))


def _of(exam: Exam, system: str, conditions: Sequence[Condition]) -> list[Answer]:
    """One system's answers."""
    return [answer for answer in exam.answers if answer.model == system and answer.condition in conditions]


def _entry(exam: Exam, system: str) -> Entry:
    """What is known of a system without any grade."""
    answers = [answer for answer in exam.answers if answer.model == system]
    words = [len(answer.text.split()) for answer in answers if answer.text]
    return Entry(system, len(words), len(answers), mean(words) if words else 0.0)


def _abilities(answer: Answer, labels: Labels) -> tuple[str, ...]:
    """Under which abilities an answer counts."""
    return answer.question.abilities if labels == "released" and answer.question.abilities else (answer.question.ability,)
