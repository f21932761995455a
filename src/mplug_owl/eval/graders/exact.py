"""Grading word for word, where one answer alone is correct."""

from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, scored


@dataclass(frozen=True)
class ExactMatch:
    """An answer is correct where it equals the target or another accepted answer, letter for letter.

    Space around both and one full stop at their ends do not count.
    """

    name: str = "exact"

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""
        return scored(answers, self.name, lambda answer, accepted: any(matches(answer, one) for one in accepted))


def matches(answer: str, target: str) -> bool:
    """Whether two sentences are the same but for space around them and one full stop."""
    return _bare(answer) == _bare(target)


def _bare(sentence: str) -> str:
    return sentence.strip().removesuffix(".")
