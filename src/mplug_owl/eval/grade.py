"""Grading: answers become grades, and an exam is a task answered and graded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mplug_owl.chat import ChatModel
from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer, answer_task
from mplug_owl.eval.task import Condition, Task

# The four levels of Self-Instruct (arXiv 2212.10560) by which people grade OwlEval, the best first: valid and satisfying;
# acceptable with minor errors; relevant, with significant errors; irrelevant or invalid.
Letter = Literal["A", "B", "C", "D"]
LETTERS: tuple[Letter, ...] = ("A", "B", "C", "D")
ACCEPTABLE = ("A", "B")
# Who graded, and whether a judge was shown the picture, none, or another question's.
Kind = Literal["metric", "person", "judge", "file"]
Shown = Literal["picture", "removed", "exchanged"]


@dataclass(frozen=True)
class Grade:
    """An answer, and how good it is.

    Args:
        answer: What is graded.
        score: 1 is correct and 0 is not, or a share between. CIDEr goes above. None where no grade could be given.
        letter: On the scale from A to D, of which A and B score 1.
        grader: A person's, a judge's or a metric's name.
        kind: What the grader is.
        round: 0, and 1 where the same grader saw the same answer a second time.
        shown: What a judge saw. Grades from other things than the picture audit the judge and never count for the model.
        details: What else is kept, such as a judge's whole reply.
    """

    answer: Answer
    score: float | None
    letter: Letter | None = None
    grader: str = "exact"
    kind: Kind = "metric"
    round: int = 0
    shown: Shown = "picture"
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """Whether it has the full score."""
        return self.score is not None and self.score >= 1

    def row(self) -> dict[str, object]:
        """Plain values, as results.json holds them."""
        question, condition = self.answer.question, self.answer.condition
        return {
            "ability": question.ability,
            "kind": question.kind,
            "split": condition.split,
            "mode": condition.mode,
            "question": question.text,
            "target": question.target,
            "answer": self.answer.text,
            "correct": self.correct,
            "score": None if self.score is None else float(self.score),
            "grader": self.grader,
            "earlier": [
                {"question": words, "target": target, "answer": answer} for words, target, answer in self.answer.earlier
            ],
        }


def lettered(answer: Answer, letter: Letter | None, grader: str, kind: Kind) -> Grade:
    """A grade from A to D, or none that could be read: unscored, which is not D."""
    return Grade(answer, None if letter is None else float(letter in ACCEPTABLE), letter, grader, kind)


def scored(answers: Sequence[Answer], grader: str, score: Callable[[str, tuple[str, ...]], float]) -> list[Grade]:
    """Each answer's grade by its words and the accepted ones; without a score where nothing is there to compare with."""
    return [
        Grade(one, score(one.text, one.question.accepted) if one.question.accepted else None, grader=grader) for one in answers
    ]


class Grader(Protocol):
    """Plug in any object that has this."""

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""


def evaluate(
    model: ChatModel,
    task: Task,
    count: int | None,
    seed: int,
    conditions: Sequence[Condition] | None = None,
    on_condition: Callable[[Condition], None] = lambda condition: None,
) -> list[Grade]:
    """An exam: ask a model a task's questions and grade its answers.

    Args:
        model: Who answers; `OwlChatModel(load("owl-tiny"))` for one of ours.
        task: What is asked, and by whom it is graded.
        count: How many questions an ability, in each condition; as many as belong to the exam where None.
        seed: Another seed asks other questions.
        conditions: Some of the task's conditions; all where None.
        on_condition: Called before each condition.

    Raises:
        UserError: A conversation of the exam is longer than the model's positions, or nobody can say at once what is correct.

    Example:
        >>> from mplug_owl import OwlChatModel, evaluate, load
        >>> from mplug_owl.eval import tasks
        >>> grades = evaluate(OwlChatModel(load("owl-tiny")), tasks.find("scenes"), count=20, seed=0)  # doctest: +SKIP
        >>> sum(grade.correct for grade in grades), len(grades)  # doctest: +SKIP
        (404, 600)
    """
    if task.grader is None:
        raise UserError(f"{task.name}: its answers are graded by people or a judge afterwards; owl eval writes them down")
    return task.grader.grades(answer_task(model, task, count, seed, conditions, on_condition))
