"""Grading: answers become grades, and an exam is a task answered and graded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mplug_owl.chat import ChatModel
from mplug_owl.eval.answer import Answer, answer_task
from mplug_owl.eval.task import Condition, Task


@dataclass(frozen=True)
class Grade:
    """An answer, and whether it is correct."""

    answer: Answer
    correct: bool

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
            "earlier": [
                {"question": words, "target": target, "answer": answer} for words, target, answer in self.answer.earlier
            ],
        }


class Grader(Protocol):
    """Plug in any object that has this."""

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""


def evaluate(
    model: ChatModel,
    task: Task,
    count: int,
    seed: int,
    conditions: Sequence[Condition] | None = None,
    on_condition: Callable[[Condition], None] = lambda condition: None,
) -> list[Grade]:
    """An exam: ask a model a task's questions and grade its answers.

    Args:
        model: Who answers; `OwlChatModel(load("owl-tiny"))` for one of ours.
        task: What is asked, and by whom it is graded.
        count: How many questions an ability, in each condition.
        seed: Another seed asks other questions.
        conditions: Some of the task's conditions; all where None.
        on_condition: Called before each condition.

    Raises:
        UserError: A conversation of the exam is longer than the model's positions.

    Example:
        >>> from mplug_owl import OwlChatModel, evaluate, load
        >>> from mplug_owl.eval import tasks
        >>> grades = evaluate(OwlChatModel(load("owl-tiny")), tasks.find("scenes"), count=20, seed=0)  # doctest: +SKIP
        >>> sum(grade.correct for grade in grades), len(grades)  # doctest: +SKIP
        (404, 600)
    """
    return task.grader.grades(answer_task(model, task, count, seed, conditions, on_condition))
