"""A scene: a few things and writings, made from a seed, described and drawn.

Three splits keep training and exam apart: `seen` has colours with shapes as training has them, `combinations` has pairs that
training never shows together, `words` has written words that training never draws. `letters` is a fourth, for learning to
read: every scene has something written, and half of it is no word. `text` is for text alone, with red cats and large blue boats
beside what can be drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

from PIL import Image

from mplug_owl.scenes import drawing
from mplug_owl.scenes.things import (
    COLOURS,
    DRAWN_WORDS,
    HELD_PAIRS,
    HELD_WORDS,
    NUMBERS,
    SHAPES,
    SIZES,
    TEXT_NOUNS,
    Thing,
    Writing,
    a,
    listed,
)

SPLITS = ("seen", "combinations", "words")
SIDE = 112
_SEEN_PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_PAIRS)
_HELD_PAIRS = tuple(sorted(HELD_PAIRS))
# Invented words, so that reading is by letters and not by the look of eighty words.
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPQRSTVWXYZ", "AEIOU"


@dataclass(frozen=True)
class Scene:
    """What there is to see, in reading order; `seed` decides how it is drawn and in which words it is described."""

    things: tuple[Thing, ...]
    writings: tuple[Writing, ...]
    seed: int

    def draw(self, side: int = SIDE) -> Image.Image:
        """The picture, `side` pixels square."""
        return drawing.draw(self.things, self.writings, self.seed, side)

    @cached_property
    def description(self) -> str:
        """The bare facts in reading order, as text-only lessons give them in a picture's place."""
        rows: list[str] = []
        for row in range(3):
            rows += [f"{thing.size} {thing.name} {thing.place}" for thing in self.things if thing.row == row]
            rows += [f"{writing.text} {writing.place}" for writing in self.writings if writing.row == row]
        return ", ".join(rows)

    @property
    def spelled(self) -> str:
        """Place by place in reading order, always in the same form, writings letter by letter."""
        rows: list[str] = []
        for row in range(3):
            things = {thing.column: f"{thing.size} {thing.name}" for thing in self.things if thing.row == row}
            letters = [" ".join(writing.text) for writing in self.writings if writing.row == row]
            rows += letters or [", ".join(things.get(column, "nothing") for column in range(3))]
        return "; ".join(rows)

    @property
    def caption(self) -> str:
        """What a person might say of the picture, in one of several wordings; all of it, as a rule."""
        random = Random(self.seed + 1)
        things = listed([f"{a(f'{thing.size} {thing.name}')} in the {thing.place}" for thing in self.things])
        written = [f"the {'number' if one.is_number else 'word'} {one.text} {one.place}" for one in self.writings]
        wording = random.randrange(6)
        if wording == 0:
            says = [f"{writing.text} {writing.place}" for writing in self.writings]
            return f"{_capital(things)}." + (f" It says {listed(says)}." if says else "")
        if wording == 1:
            return f"The picture shows {listed([things, *written])}."
        if wording == 2:
            count = len(self.things)
            opening = f"There {'is one thing' if count == 1 else f'are {count} things'}"
            return f"{opening}: {things}." + (f" Written is {listed(written)}." if written else "")
        if wording == 3 and written:
            return f"{_capital(listed(written))}, with {things}."
        if wording == 4:
            return f"{_capital(self.description)}."
        return f"There is {listed([things, *written])}."


def scene(seed: int, split: str = "seen") -> Scene:
    """The scene of a seed. Raises ValueError for a split there isn't."""
    if split not in (*SPLITS, "letters", "text"):
        raise ValueError(f"no split is called {split!r}; there are {', '.join(SPLITS)}, letters and text")
    random = Random(seed)
    written = 1 if split == "words" else random.choices((0, 1, 2), (0, 1, 1) if split == "letters" else (5, 8, 7))[0]
    rows = random.sample(range(3), written)
    cells = [(row, column) for row in range(3) if row not in rows for column in range(3)]
    count = random.choice((1, 2, 3, 4) if written < 2 else (1, 2, 3))
    places = sorted(random.sample(cells, count))
    pairs = _pairs(random, count, split)
    things = tuple(
        Thing(shape, colour, random.choice(SIZES), *place) for (colour, shape), place in zip(pairs, places, strict=True)
    )
    writings = tuple(Writing(text, row) for text, row in zip(_texts(random, written, split), sorted(rows), strict=True))
    return Scene(things, writings, seed)


def scenes(count: int, seed: int, split: str = "seen") -> Iterator[Scene]:
    """`count` scenes; a seed always gives the same."""
    random = Random(seed)
    return (scene(random.randrange(2**48), split) for _ in range(count))


def _pairs(random: Random, count: int, split: str) -> list[tuple[str, str]]:
    """A colour and a shape for each thing. Often they share one or both, so that there is something to count and compare."""
    held = split == "combinations"

    def any_pair() -> tuple[str, str]:
        if split == "text" and random.random() < 0.6:
            return random.choice(tuple(COLOURS)), random.choice(TEXT_NOUNS)
        return random.choice(_HELD_PAIRS if held and random.random() < 0.7 else _SEEN_PAIRS)

    pairs = [random.choice(_HELD_PAIRS) if held else any_pair()]
    if count > 2 and random.random() < 0.4:  # all alike but one
        other = any_pair()
        while other == pairs[0]:
            other = any_pair()
        pairs = pairs * (count - 1) + [other]
    while len(pairs) < count:
        pair, (colour, shape) = any_pair(), random.choice(pairs)
        same = random.random()
        if same < 0.3:
            pair = (colour, pair[1])
        elif same < 0.6:
            pair = (pair[0], shape)
        if held or pair not in HELD_PAIRS:
            pairs.append(pair)
    random.shuffle(pairs)
    return pairs


def _texts(random: Random, count: int, split: str) -> list[str]:
    """Words and numbers to write. Two are often both numbers, so that there is something to add."""
    if split == "words":
        return [random.choice(HELD_WORDS)]
    if split == "letters":
        return [_letters(random) for _ in range(count)]
    if count == 2 and random.random() < (0.7 if split == "text" else 0.5):
        return [str(random.choice(NUMBERS)) for _ in range(2)]
    return [str(random.choice(NUMBERS)) if random.random() < 0.4 else _word(random, split) for _ in range(count)]


def _letters(random: Random) -> str:
    """A number, a word or, half of the time, letters without sense, short ones more often: reading begins with one letter."""
    kind = random.random()
    if kind < 0.5:
        return str(random.choice(NUMBERS)) if kind < 0.3 else random.choice(DRAWN_WORDS)
    length = random.choices(range(1, 7), (6, 5, 4, 3, 2, 2))[0]
    while (letters := "".join(random.choices(_CONSONANTS + _VOWELS, k=length))) in HELD_WORDS:
        pass
    return letters


def _word(random: Random, split: str) -> str:
    if split not in ("seen", "text") or random.random() < 0.7:
        return random.choice(DRAWN_WORDS)
    while (word := _invented(random)) in HELD_WORDS:
        pass
    return word


def _invented(random: Random) -> str:
    start = random.randrange(2)
    return "".join(random.choice(_VOWELS if (place + start) % 2 else _CONSONANTS) for place in range(random.randint(3, 6)))


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
