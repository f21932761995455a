"""ANLS: how near written words are to an accepted answer, letter by letter, for text read in pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, scored

THRESHOLD = 0.5


@dataclass(frozen=True)
class Anls:
    """Average normalised Levenshtein similarity (arXiv 1905.13648) to the nearest accepted answer; 0 below one half.

    Case and the kind of space do not count. At exactly one half the paper has 0 and the official script one half; this is the
    script's, from which published figures come.
    """

    name: str = "anls"

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""
        return scored(answers, self.name, anls)


def anls(answer: str, accepted: Sequence[str]) -> float:
    """The similarity to the nearest accepted answer, and 0 below the threshold."""
    best = max(similarity(answer, one) for one in accepted)
    return best if best >= THRESHOLD else 0.0


def similarity(one: str, other: str) -> float:
    """1 minus the edits from one to the other over the length of the longer."""
    first, second = (" ".join(words.lower().split()) for words in (one, other))
    longer = max(len(first), len(second))
    if abs(len(first) - len(second)) > THRESHOLD * longer:
        return 0.0  # as many edits at least: below the threshold, and not worth counting
    return 1 - levenshtein(first, second) / longer if longer else 1.0


def levenshtein(one: str, other: str) -> int:
    """How many letters have to be put in, left out or changed."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], number
        for column, wanted in enumerate(other, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != wanted))
    return row[-1]
