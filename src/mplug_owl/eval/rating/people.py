"""People grade answers: in which order each sees them, and what a person has graded, skipped and undone so far."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Letter
from mplug_owl.eval.grades_file import key

# The scale of Self-Instruct (arXiv 2212.10560), as the mPLUG-Owl paper words it.
WORDING: Mapping[Letter, str] = {
    "A": "valid and satisfying",
    "B": "acceptable, with minor errors or imperfections",
    "C": "relevant, but with significant errors",
    "D": "irrelevant or invalid",
}


@dataclass(frozen=True)
class Item:
    """An answer as one person sees it.

    Args:
        id: What the page calls it. It says nothing about who answered.
        answer: What is graded.
        round: 1 where the person sees the answer for the second time.
    """

    id: str
    answer: Answer
    round: int = 0


@dataclass(frozen=True)
class Event:
    """Something that a person did with an item: a letter is its grade, and None sends it to the end."""

    item: Item
    letter: Letter | None


def order(answers: Iterable[Answer], person: str, seed: int, repeat: float) -> tuple[Item, ...]:
    """The items of one person, who has an order of their own: the same for the same name and seed, in whatever order they come.

    Answers about one picture come one after another, whoever answered. A share `repeat` of all is shown a second time, after at
    least half of the others.
    """
    draw = random.Random(f"{seed} {person}")
    groups: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in sorted(answers, key=key):
        condition = answer.condition
        groups.setdefault((condition.split, condition.mode, answer.question.cluster), []).append(answer)
    shuffled = list(groups.values())
    draw.shuffle(shuffled)
    for group in shuffled:
        draw.shuffle(group)
    first = [Item(item_id(answer, person, seed, 0), answer) for group in shuffled for answer in group]
    half = len(first) // 2
    shown = [(float(index), item) for index, item in enumerate(first)]
    for index in draw.sample(range(half), min(half, round(repeat * len(first)))):
        again = Item(item_id(first[index].answer, person, seed, 1), first[index].answer, 1)
        shown.append((draw.uniform(index + half, len(first)), again))
    return tuple(item for _, item in sorted(shown, key=lambda one: one[0]))


def item_id(answer: Answer, person: str, seed: int, number: int) -> str:
    """A name for a showing of an answer to a person, from which nothing about the answer can be read."""
    return sha256(json.dumps([seed, person, key(answer), number]).encode()).hexdigest()[:20]


def chosen(answers: Sequence[Answer], limit: int | None, seed: int) -> list[Answer]:
    """The answers that are graded where they are too many, the same for everybody: all systems' to some of the questions."""
    groups: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in sorted(answers, key=key):
        groups.setdefault(key(answer)[1:], []).append(answer)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    return [answer for group in shuffled for answer in group][:limit]


class Progress:
    """How far one person is: a list of events, from which everything else follows.

    Args:
        name: The person's.
        items: All that they are shown, in their order.
    """

    def __init__(self, name: str, items: Sequence[Item]) -> None:
        self.name, self.items = name, tuple(items)
        self.by_id = {item.id: item for item in self.items}
        self.by_answer = {(key(item.answer), item.round): item for item in self.items}
        self.events: list[Event] = []

    def copy(self) -> "Progress":
        """How far the person is now, whatever another page of theirs does meanwhile."""
        there = Progress(self.name, self.items)
        there.events = list(self.events)
        return there

    @property
    def graded(self) -> dict[str, Letter]:
        """The grade of each item that has one, by its id."""
        return {event.item.id: event.letter for event in self.events if event.letter is not None}

    @property
    def waiting(self) -> list[Item]:
        """What is still to be graded, the current item first. What was skipped comes last, and is not shown a second time."""
        graded = self.graded
        skipped: dict[str, Item] = {}
        for event in self.events:
            if event.letter is None:
                skipped.pop(event.item.id, None)
                skipped[event.item.id] = event.item
        never_twice = {key(item.answer) for item in skipped.values() if item.round == 0}
        waiting = [item for item in self.items if item.id not in skipped] + list(skipped.values())
        return [item for item in waiting if item.id not in graded and not (item.round == 1 and key(item.answer) in never_twice)]

    @property
    def current(self) -> Item | None:
        """What is to be graded now; None where all is."""
        waiting = self.waiting
        return waiting[0] if waiting else None

    def take_back(self) -> tuple[Event, Letter | None] | None:
        """Remove the last event. Returns it with the grade that its item has now, or None where there is no event."""
        if not self.events:
            return None
        event = self.events.pop()
        return event, self.graded.get(event.item.id)


def agreement(pairs: Iterable[tuple[Letter | None, Letter | None]]) -> tuple[int, int]:
    """In how many pairs both grades are the same, and how many pairs have both."""
    both = [one == other for one, other in pairs if one is not None and other is not None]
    return sum(both), len(both)
