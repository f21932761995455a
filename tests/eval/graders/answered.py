"""Answers to made-up questions: what a model said, beside what is accepted."""

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.task import Condition, Question

ASKED = Condition("all", "picture", "as asked", "made up")


def answered(answer: str, *accepted: str, image: str = "", words: str = "What?", number: int = 0) -> Answer:
    """An answer to a question of one turn; the first accepted answer is its target."""
    target, *others = accepted or ("",)
    question = Question(f"q{number}", "overall", "", ((words, target),), image=image, references=tuple(others))
    return Answer(question, ASKED, (answer,), "made up")
