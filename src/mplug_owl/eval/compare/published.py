"""The paper's published counts of A to D on OwlEval, read back from a file of ours. Counts enter an exam at its figures."""

import json
from dataclasses import dataclass
from importlib.resources import files

from mplug_owl.eval.compare.gradings import LetterCounts
from mplug_owl.eval.statistics import Share


@dataclass(frozen=True)
class Published:
    """What a paper says of several systems, half by half.

    Args:
        source: Where it was published.
        graders: Who graded.
        questions: How many questions each half has.
        halves: For each half, each system's counts.
    """

    source: str
    graders: str
    questions: dict[str, int]
    halves: dict[str, dict[str, LetterCounts]]


def published() -> Published:
    """assets/owleval-published.json. Counts alone: no interval by picture and no paired test can be made of them."""
    read = json.loads((files("mplug_owl") / "assets" / "owleval-published.json").read_text("utf-8"))
    halves = {half: {name: _counts(counts[half]) for name, counts in read["systems"].items()} for half in read["questions"]}
    return Published(read["source"], read["graders"], read["questions"], halves)


def _counts(counts: list[int]) -> LetterCounts:
    """Four counts as if every answer had a grade."""
    return LetterCounts(tuple(counts), Share(counts[0] + counts[1], sum(counts)))
