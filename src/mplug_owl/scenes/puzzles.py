"""Questions of two steps, and talks whose later questions lean on earlier ones."""

from collections import Counter
from random import Random

from mplug_owl.scenes.questions import Turns, alone, one, pointed_at
from mplug_owl.scenes.things import COLOURS, SHAPES, Thing, a, plural
from mplug_owl.scenes.world import Scene

# Reasoning


def _numbers(scene: Scene) -> list[int]:
    return [int(writing.text) for writing in scene.writings if writing.is_number]


def sum_of_numbers(scene: Scene, random: Random) -> Turns | None:
    """Two written numbers added."""
    if len(numbers := _numbers(scene)) != 2:
        return None
    wordings = ("What is the sum of the two numbers?", "Add the written numbers.", "How much are the two numbers together?")
    return one(random, str(sum(numbers)), *wordings)


def larger_number(scene: Scene, random: Random) -> Turns | None:
    """The larger or the smaller of two written numbers."""
    if len(numbers := _numbers(scene)) != 2 or numbers[0] == numbers[1]:
        return None
    if random.random() < 0.5:
        return one(random, str(max(numbers)), "Which written number is larger?", "Give the larger of the two numbers.")
    return one(random, str(min(numbers)), "Which written number is smaller?", "Give the smaller of the two numbers.")


def number_and_things(scene: Scene, random: Random) -> Turns | None:
    """The written number and the count of things, added."""
    if len(numbers := _numbers(scene)) != 1:
        return None
    wordings = ("Add the number of things to the written number.", "What is the written number plus the number of things?")
    return one(random, str(numbers[0] + len(scene.things)), *wordings)


def odd_one_out(scene: Scene, random: Random) -> Turns | None:
    """All things are alike but one."""
    names = Counter(thing.name for thing in scene.things)
    if len(scene.things) < 3 or sorted(names.values()) != [1, len(scene.things) - 1]:
        return None
    odd = next(name for name, number in names.items() if number == 1)
    return one(
        random, odd, "Which thing is the odd one out?", "All things are alike but one: which?", "Which thing does not fit?"
    )


def more(scene: Scene, random: Random) -> Turns | None:
    """Whether one shape comes up more often than another."""
    first, second = random.sample(sorted({thing.shape for thing in scene.things} | set(random.sample(SHAPES, 2))), 2)
    counts = Counter(thing.shape for thing in scene.things)
    if counts[first] == counts[second]:
        return None
    answer = "yes" if counts[first] > counts[second] else "no"
    return one(random, answer, f"Are there more {plural(first)} than {plural(second)}?")


def if_then(scene: Scene, random: Random) -> Turns | None:
    """One word where something is there, another where it is not."""
    claimed = (
        random.choice(scene.things).name if random.random() < 0.5 else f"{random.choice(list(COLOURS))} {random.choice(SHAPES)}"
    )
    there = any(thing.name == claimed for thing in scene.things)
    yes, no = random.sample(("left", "right", "stop", "go", "day", "night"), 2)
    return one(random, yes if there else no, f"If there is {a(claimed)}, say {yes}, otherwise say {no}.")


def same(scene: Scene, random: Random) -> Turns | None:
    """Whether two things share their colour or their shape."""
    shapes = alone(scene, "shape")
    if len(shapes) >= 2 and random.random() < 0.5:
        first, second = random.sample(shapes, 2)
        answer = "yes" if first.colour == second.colour else "no"
        return one(random, answer, f"Do the {first.shape} and the {second.shape} have the same colour?")
    colours = alone(scene, "colour")
    if len(colours) < 2:
        return None
    first, second = random.sample(colours, 2)
    answer = "yes" if first.shape == second.shape else "no"
    return one(random, answer, f"Do the {first.colour} thing and the {second.colour} thing have the same shape?")


def beside(scene: Scene, random: Random) -> Turns | None:
    """What stands left of, right of, above or below a thing."""
    ways: list[tuple[Thing, str, Thing]] = []
    for thing in alone(scene, "name"):
        for other in scene.things:
            side = _side(thing, other)
            if side and sum(_side(thing, one) == side for one in scene.things) == 1:
                ways.append((thing, side, other))
    if not ways:
        return None
    thing, side, other = random.choice(ways)
    return one(random, other.name, f"What is {side} the {thing.name}?", f"Which thing is {side} the {thing.name}?")


def _side(thing: Thing, other: Thing) -> str | None:
    """Where the other thing is, seen from the first one; None unless they share a row or a column."""
    if thing.row == other.row and thing.column != other.column:
        return "left of" if other.column < thing.column else "right of"
    if thing.column == other.column and thing.row != other.row:
        return "above" if other.row < thing.row else "below"
    return None


# Dialogue


def _opened(scene: Scene, random: Random) -> tuple[Thing, Turns] | None:
    """A first question whose answer is what the talk goes on about."""
    if random.random() < 0.4:
        thing = random.choice(scene.things)
        return thing, ((f"What is in the {thing.place}?", thing.name),)
    avoid = random.choice(("shape", "colour"))
    if (found := pointed_at(scene, random, avoid)) is None:
        return None
    thing, words = found
    return thing, ((f"What {avoid} is {words}?", getattr(thing, avoid)),)


def of_it(scene: Scene, random: Random) -> Turns | None:
    """A thing is found, then more is asked of it."""
    if (opened := _opened(scene, random)) is None:
        return None
    thing, turns = opened
    ways: list[tuple[str, str]] = [("Is it small or large?", thing.size), ("And how large is it?", thing.size)]
    if thing.place not in turns[0][0]:
        ways += [("Where is it?", thing.place), ("And in which place is it?", thing.place)]
    return (*turns, random.choice(ways))


def left_of_it(scene: Scene, random: Random) -> Turns | None:
    """A thing is found, then what stands beside it."""
    if (opened := _opened(scene, random)) is None:
        return None
    thing, turns = opened
    sides = [(side, other) for other in scene.things if (side := _side(thing, other))]
    sides = [(side, other) for side, other in sides if sum(side == again for again, _ in sides) == 1]
    if not sides:
        return None
    side, other = random.choice(sides)
    return (*turns, (random.choice((f"And what is {side} it?", f"What do you see {side} it?")), other.name))


def what_is_left(scene: Scene, random: Random) -> Turns | None:
    """Things are counted, then counted without some of them."""
    kind, names = random.choice((("shape", SHAPES), ("colour", tuple(COLOURS))))
    present = sorted({getattr(thing, kind) for thing in scene.things})
    taken = random.choice(present) if random.random() < 0.8 else random.choice(names)
    left = sum(getattr(thing, kind) != taken for thing in scene.things)
    what = plural(taken) if kind == "shape" else f"{taken} things"
    first = (random.choice(("How many things are there?", "Count the things.")), str(len(scene.things)))
    return (first, (random.choice((f"And without the {what}?", f"Take the {what} away: how many are left?")), str(left)))


def of_the_word(scene: Scene, random: Random) -> Turns | None:
    """The word is read, then more is asked of it."""
    words = [writing for writing in scene.writings if not writing.is_number]
    if len(words) != 1:
        return None
    (found,) = words
    first = (random.choice(("What word is written?", "Read the word.")), found.text)
    ways = (
        ("How many letters does it have?", str(len(found.text))),
        ("And where does it stand?", found.place),
        ("With which letter does it begin?", found.text[0]),
        ("Now in small letters.", found.text.lower()),
    )
    return (first, random.choice(ways))


def three_turns(scene: Scene, random: Random) -> Turns | None:
    """A thing, the one beside it, and more of that one."""
    if (talk := left_of_it(scene, random)) is None:
        return None
    other = next(thing for thing in scene.things if thing.name == talk[1][1])
    if sum(thing.name == other.name for thing in scene.things) != 1:
        return None
    return (*talk, random.choice((("And is that one small or large?", other.size), ("Where is that one?", other.place))))
