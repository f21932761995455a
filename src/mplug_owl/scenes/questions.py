"""Questions about a scene that have one right answer, in many wordings: seeing, reading, following orders, knowing.

A question is a function of a scene and a random stream; it gives the turns of a short talk, or None where the scene does not
hold what it asks for. Puzzles and dialogues are next door, in `puzzles`.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

from mplug_owl.scenes.things import (
    COLOURS,
    CORNERS,
    FRUIT_OF,
    KIND_OF,
    LIKE,
    NUMBER_WORDS,
    PLACES,
    ROWS,
    SHAPES,
    Thing,
    Writing,
    a,
    plural,
)
from mplug_owl.scenes.world import Scene

Turns = tuple[tuple[str, str], ...]
Question = Callable[[Scene, Random], Turns | None]


def one(random: Random, answer: str, *wordings: str) -> Turns:
    """A single turn, in one of the wordings."""
    return ((random.choice(wordings), answer),)


def alone(scene: Scene, attribute: str) -> list[Thing]:
    """The things that no other is like in shape or colour."""
    counts = Counter(getattr(thing, attribute) for thing in scene.things)
    return [thing for thing in scene.things if counts[getattr(thing, attribute)] == 1]


def pointed_at(scene: Scene, random: Random, avoid: str = "") -> tuple[Thing, str] | None:
    """A thing and words that mean it and no other: `the circle`, `the red thing`, `the red circle`.

    `avoid` is what the question asks for, which its words must not give away.
    """
    ways: list[tuple[Thing, str]] = []
    if avoid != "shape":
        ways += [(thing, f"the {thing.shape}") for thing in alone(scene, "shape")]
    if avoid != "colour":
        ways += [(thing, f"the {thing.colour} thing") for thing in alone(scene, "colour")]
    if not avoid:
        ways += [(thing, f"the {thing.name}") for thing in alone(scene, "name")]
    return random.choice(ways) if ways else None


# Seeing


def colour(scene: Scene, random: Random) -> Turns | None:
    """The colour of a thing that its shape identifies."""
    if (found := pointed_at(scene, random, "colour")) is None:
        return None
    thing, words = found
    return one(
        random, thing.colour, f"What colour is {words}?", f"Which colour does {words} have?", f"Tell me {words}'s colour."
    )


def shape(scene: Scene, random: Random) -> Turns | None:
    """The shape of a thing that its colour identifies."""
    if (found := pointed_at(scene, random, "shape")) is None:
        return None
    thing, words = found
    return one(
        random, thing.shape, f"What shape is {words}?", f"Which shape does {words} have?", f"Tell me the shape of {words}."
    )


def size(scene: Scene, random: Random) -> Turns | None:
    """Small or large."""
    if (found := pointed_at(scene, random)) is None:
        return None
    thing, words = found
    return one(random, thing.size, f"Is {words} small or large?", f"What size is {words}?", f"How large is {words}?")


def position(scene: Scene, random: Random) -> Turns | None:
    """One of the nine places."""
    if (found := pointed_at(scene, random)) is None:
        return None
    thing, words = found
    return one(random, thing.place, f"Where is {words}?", f"In which place is {words}?", f"Where do you see {words}?")


def at(scene: Scene, random: Random) -> Turns | None:
    """What stands in a place; a quarter of the time, nothing."""
    free = [(row, column) for row in range(3) for column in range(3) if row not in {w.row for w in scene.writings}]
    named = {(thing.row, thing.column): thing.name for thing in scene.things}
    row, column = random.choice(free if random.random() < 0.25 else list(named))
    place = PLACES[row][column]
    wordings = (f"What is in the {place}?", f"What do you see in the {place}?", f"Which thing is in the {place}?")
    return one(random, named.get((row, column), "nothing"), *wordings)


def count(scene: Scene, random: Random) -> Turns | None:
    """All things, those of a shape or those of a colour; sometimes none."""
    kind = random.randrange(3)
    if kind == 0:
        return one(
            random, str(len(scene.things)), "How many things are there?", "How many things do you see?", "Count the things."
        )
    if kind == 1:
        asked = random.choice(SHAPES if random.random() < 0.25 else [thing.shape for thing in scene.things])
        number, what = sum(thing.shape == asked for thing in scene.things), plural(asked)
    else:
        asked = random.choice(list(COLOURS) if random.random() < 0.25 else [thing.colour for thing in scene.things])
        number, what = sum(thing.colour == asked for thing in scene.things), f"{asked} things"
    return one(random, str(number), f"How many {what} are there?", f"How many {what} do you see?", f"Count the {what}.")


def existence(scene: Scene, random: Random) -> Turns | None:
    """Whether something is there."""
    claimed, answer = _claim(scene, random)
    return one(random, answer, f"Is there {a(claimed)}?", f"Do you see {a(claimed)}?", f"Is {a(claimed)} in the picture?")


def absence(scene: Scene, random: Random) -> Turns | None:
    """Whether something is not there."""
    claimed, answer = _claim(scene, random)
    other = "no" if answer == "yes" else "yes"
    return one(random, other, f"Is there no {claimed}?", f"Is {a(claimed)} missing?", f"Is the picture without {a(claimed)}?")


def _claim(scene: Scene, random: Random) -> tuple[str, str]:
    """Something that is or is not there, half and half; what is not there is often nearly there."""
    names = {thing.name for thing in scene.things}
    kinds = {thing.shape for thing in scene.things}
    if random.random() < 0.5:
        thing = random.choice(scene.things)
        return (thing.name if random.random() < 0.7 else thing.shape), "yes"
    if random.random() < 0.3:
        return random.choice([shape for shape in SHAPES if shape not in kinds]), "no"
    while True:
        colour = random.choice(scene.things).colour if random.random() < 0.6 else random.choice(list(COLOURS))
        shape = random.choice(scene.things).shape if random.random() < 0.6 else random.choice(SHAPES)
        if f"{colour} {shape}" not in names:
            return f"{colour} {shape}", "no"


# Reading


def _single(scene: Scene, number: bool | None = None) -> Writing | None:
    found = [writing for writing in scene.writings if number is None or writing.is_number == number]
    return found[0] if len(found) == 1 else None


def word(scene: Scene, random: Random) -> Turns | None:
    """The only word."""
    if (found := _single(scene, number=False)) is None:
        return None
    return one(
        random, found.text, "What word is written?", "Which word do you read?", "Read the word.", "What does the word say?"
    )


def number(scene: Scene, random: Random) -> Turns | None:
    """The only number."""
    if (found := _single(scene, number=True)) is None:
        return None
    return one(random, found.text, "What number is written?", "Which number do you read?", "Read the number.")


def written_at(scene: Scene, random: Random) -> Turns | None:
    """What is written in a row; a quarter of the time, nothing."""
    if not scene.writings:
        return None
    rows = {writing.row: writing.text for writing in scene.writings}
    row = random.randrange(3) if random.random() < 0.25 else random.choice(list(rows))
    place = ROWS[row]
    wordings = (f"What is written {place}?", f"What do you read {place}?", f"Which word or number is {place}?")
    return one(random, rows.get(row, "nothing"), *wordings)


def first_letter(scene: Scene, random: Random) -> Turns | None:
    """The first letter of the only word."""
    if (found := _single(scene, number=False)) is None:
        return None
    wordings = ("With which letter does the word begin?", "What is the first letter of the word?", "Which letter comes first?")
    return one(random, found.text[0], *wordings)


# Following orders


def one_word(scene: Scene, random: Random) -> Turns | None:
    """A colour or a shape, in one word."""
    if (found := pointed_at(scene, random, random.choice(("colour", "shape")))) is None:
        return None
    thing, words = found
    if words.endswith("thing"):
        return one(random, thing.shape, f"Name the shape of {words} in one word.", f"In one word, what shape is {words}?")
    return one(random, thing.colour, f"Name the colour of {words} in one word.", f"In one word, what colour is {words}?")


def capitals(scene: Scene, random: Random) -> Turns | None:
    """A colour in capitals."""
    if (found := pointed_at(scene, random, "colour")) is None:
        return None
    thing, words = found
    wordings = (f"Answer in capitals: what colour is {words}?", f"Write the colour of {words} in capitals.")
    return one(random, thing.colour.upper(), *wordings)


def yes_or_no(scene: Scene, random: Random) -> Turns | None:
    """Whether something is there, in the words asked for."""
    claimed, answer = _claim(scene, random)
    return one(random, answer, f"Answer yes or no: is there {a(claimed)}?", f"Yes or no: do you see {a(claimed)}?")


def list_things(scene: Scene, random: Random) -> Turns | None:
    """All things, with commas, in reading order."""
    answer = ", ".join(thing.name for thing in scene.things)
    wordings = (
        "List the things in reading order, separated by commas.",
        "Name all things in reading order, with commas between them.",
        "Give a comma list of the things in reading order.",
    )
    return one(random, answer, *wordings)


def list_colours(scene: Scene, random: Random) -> Turns | None:
    """All colours, with commas, in reading order."""
    answer = ", ".join(thing.colour for thing in scene.things)
    wordings = (
        "List only the colours in reading order, separated by commas.",
        "Give a comma list of the colours in reading order.",
    )
    return one(random, answer, *wordings)


def with_a_number(scene: Scene, random: Random) -> Turns | None:
    """How many things there are, as a number."""
    wordings = ("Answer with a number: how many things are there?", "Give only the number of things.")
    return one(random, str(len(scene.things)), *wordings)


def choice(scene: Scene, random: Random) -> Turns | None:
    """One of two colours, by its letter."""
    if (found := pointed_at(scene, random, "colour")) is None:
        return None
    thing, words = found
    other = random.choice([colour for colour in COLOURS if colour != thing.colour])
    options, answer = ((thing.colour, other), "A") if random.random() < 0.5 else ((other, thing.colour), "B")
    return one(random, answer, f"What colour is {words}? A: {options[0]}, B: {options[1]}. Answer with the letter.")


def sentence(scene: Scene, random: Random) -> Turns | None:
    """A colour in a whole sentence."""
    if (found := pointed_at(scene, random, "colour")) is None:
        return None
    thing, words = found
    answer = f"{words.capitalize()} is {thing.colour}."
    return one(
        random, answer, f"Answer in a full sentence: what colour is {words}?", f"Say in a sentence which colour {words} has."
    )


# Knowing


def fruit(scene: Scene, random: Random) -> Turns | None:
    """A fruit of the same colour; only text tells which."""
    if (found := pointed_at(scene, random, "colour")) is None:
        return None
    thing, words = found
    return one(
        random, FRUIT_OF[thing.colour], f"Which fruit has the colour of {words}?", f"Name a fruit with the colour of {words}."
    )


def corners(scene: Scene, random: Random) -> Turns | None:
    """How many corners the shape has."""
    if (found := pointed_at(scene, random, "shape")) is None or found[0].shape not in CORNERS:
        return None
    thing, words = found
    return one(random, str(CORNERS[thing.shape]), f"How many corners does {words} have?", f"Count the corners of {words}.")


def like(scene: Scene, random: Random) -> Turns | None:
    """What in the world has this shape; only text tells."""
    if (found := pointed_at(scene, random, "shape")) is None or found[0].shape not in LIKE:
        return None
    thing, words = found
    return one(
        random, LIKE[thing.shape], f"What in the world has the shape of {words}?", f"What else has the shape of {words}?"
    )


def meaning(scene: Scene, random: Random) -> Turns | None:
    """What kind of thing the written word names; only text tells."""
    if (found := _single(scene, number=False)) is None or found.text not in KIND_OF:
        return None
    wordings = ("What does the written word name?", "What kind of thing does the word mean?", "What is meant by the word?")
    return one(random, a(KIND_OF[found.text]), *wordings)


def in_words(scene: Scene, random: Random) -> Turns | None:
    """The written number spelled out."""
    if (found := _single(scene, number=True)) is None:
        return None
    return one(
        random, NUMBER_WORDS[int(found.text)], "Write the number in words.", "How is the written number called in words?"
    )
