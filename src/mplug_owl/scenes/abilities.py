"""The six abilities of OwlEval in the drawn world, and exams in them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from mplug_owl.scenes import puzzles, questions
from mplug_owl.scenes.questions import Question, Turns
from mplug_owl.scenes.things import HELD_PAIRS
from mplug_owl.scenes.world import Scene, scene

KINDS: Mapping[str, Mapping[str, Question]] = MappingProxyType(
    {
        "instruction": {
            "one word": questions.one_word,
            "capitals": questions.capitals,
            "yes or no": questions.yes_or_no,
            "list": questions.list_things,
            "list of colours": questions.list_colours,
            "number only": questions.with_a_number,
            "choice": questions.choice,
            "sentence": questions.sentence,
        },
        "visual": {
            "colour": questions.colour,
            "shape": questions.shape,
            "size": questions.size,
            "position": questions.position,
            "at": questions.at,
            "count": questions.count,
            "existence": questions.existence,
            "absence": questions.absence,
        },
        "ocr": {
            "word": questions.word,
            "number": questions.number,
            "written at": questions.written_at,
            "first letter": questions.first_letter,
        },
        "knowledge": {
            "fruit": questions.fruit,
            "corners": questions.corners,
            "like": questions.like,
            "meaning": questions.meaning,
            "in words": questions.in_words,
        },
        "reasoning": {
            "sum": puzzles.sum_of_numbers,
            "larger": puzzles.larger_number,
            "number and things": puzzles.number_and_things,
            "odd one out": puzzles.odd_one_out,
            "more": puzzles.more,
            "if then": puzzles.if_then,
            "same": puzzles.same,
            "beside": puzzles.beside,
        },
        "dialogue": {
            "of it": puzzles.of_it,
            "beside it": puzzles.left_of_it,
            "what is left": puzzles.what_is_left,
            "of the word": puzzles.of_the_word,
            "three turns": puzzles.three_turns,
        },
    }
)
ABILITIES = tuple(KINDS)
# What reads a word, and so can meet one that was never written in a training picture.
READING = ("word", "written at", "first letter", "meaning", "of the word")
# Few scenes hold what these ask for, so lessons ask them more often where they can.
SELDOM = {"sum": 4, "larger": 3, "number and things": 2, "odd one out": 3, "beside it": 2, "three turns": 2}

_names_held = re.compile("|".join(" ".join(pair) for pair in sorted(HELD_PAIRS))).search


@dataclass(frozen=True)
class Item:
    """One question of an exam: its scene, what it tries, and its turns of question and target; the last is graded."""

    scene: Scene
    ability: str
    kind: str
    turns: Turns


def exam(count: int, split: str, seed: int) -> list[Item]:
    """`count` items an ability, every kind of question as often as any other of its ability, each about a scene of its own.

    The split `words` has only questions that read a word, and only about words never drawn in training.
    """
    random = Random(f"{split} {seed}")
    items: list[Item] = []
    for ability, kinds in KINDS.items():
        asked = [kind for kind in kinds if split != "words" or kind in READING]
        for number in range(count if asked else 0):
            kind = asked[number % len(asked)]
            items.append(_item(ability, kind, split, random))
    return items


def talk(shown: Scene, count: int, random: Random) -> list[Turns]:
    """`count` different questions about one scene, at most one of a kind, every ability as likely as any other.

    No question mentions a held-out pair: in lessons it would always be what is not there.
    """
    chosen: list[Turns] = []
    left = {ability: dict(kinds) for ability, kinds in KINDS.items()}
    while len(chosen) < count and left:
        ability = random.choice(list(left))
        kinds = left[ability]
        kind = random.choices(list(kinds), [SELDOM.get(kind, 1) for kind in kinds])[0]
        question = kinds.pop(kind)
        if not kinds:
            del left[ability]
        turns = question(shown, random)
        if turns is not None and not _names_held("\n".join(part for turn in turns for part in turn)):
            chosen.append(turns)
    return chosen


def _item(ability: str, kind: str, split: str, random: Random) -> Item:
    while True:
        drawn = scene(random.randrange(2**48), split)
        turns = KINDS[ability][kind](drawn, random)
        if turns is not None and (split != "words" or turns[-1][1] != "nothing"):
            return Item(drawn, ability, kind, turns)
