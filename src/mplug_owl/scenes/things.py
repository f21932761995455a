"""What there is in the drawn world: shapes, colours, places, words, and what only text can teach about them."""

from dataclasses import dataclass
from typing import Literal

Size = Literal["small", "large"]

SHAPES = ("circle", "triangle", "square", "star", "cross", "heart")
# Read about in every colour and never drawn: where any colour goes with any noun, colours are not known by what they go with.
TEXT_NOUNS = (
    *("cat", "dog", "cow", "lion", "duck", "frog", "boat", "ship"),
    *("bus", "car", "drum", "harp", "tree", "fern", "hat", "shoe"),
)
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 138, 30),
    "yellow": (244, 214, 40),
    "green": (44, 160, 66),
    "blue": (40, 96, 214),
    "purple": (132, 60, 176),
    "white": (248, 248, 248),
    "black": (24, 24, 24),
}
SIZES: tuple[Size, ...] = ("small", "large")
# Places by row and column of a three by three grid, in reading order.
PLACES = (
    ("top left", "top middle", "top right"),
    ("middle left", "centre", "middle right"),
    ("bottom left", "bottom middle", "bottom right"),
)
ROWS = ("at the top", "in the middle", "at the bottom")
NUMBERS = range(1, 21)

# Colour and shape that training never shows together: every colour once, every shape at least once.
HELD_PAIRS = frozenset(
    {
        ("red", "star"),
        ("orange", "square"),
        ("yellow", "heart"),
        ("green", "circle"),
        ("blue", "triangle"),
        ("purple", "cross"),
        ("white", "star"),
        ("black", "circle"),
    }
)

KINDS = {
    "animal": ("CAT", "DOG", "COW", "FOX", "OWL", "BEAR", "LION", "DUCK", "FROG", "FISH", "GOAT", "MOUSE"),
    "fruit": ("APPLE", "PEAR", "PLUM", "LEMON", "FIG", "MANGO", "MELON", "GRAPE", "KIWI", "LIME", "PEACH", "DATE"),
    "tool": ("HAMMER", "SAW", "AXE", "DRILL", "RAKE", "SPADE", "BROOM", "KNIFE", "FILE", "PLIERS", "SCREW", "LADDER"),
    "vehicle": ("CAR", "BUS", "TRAIN", "BOAT", "SHIP", "PLANE", "TRUCK", "BIKE", "TRAM", "SLED", "TAXI", "VAN"),
    "drink": ("TEA", "MILK", "COFFEE", "WATER", "JUICE", "COCOA", "WINE", "BEER", "SODA", "CIDER", "RUM", "ALE"),
    "garment": ("HAT", "SHOE", "COAT", "SHIRT", "SOCK", "SCARF", "GLOVE", "SKIRT", "BOOT", "BELT", "DRESS", "CAP"),
    "plant": ("TREE", "ROSE", "GRASS", "FERN", "MOSS", "TULIP", "OAK", "IVY", "LILY", "PALM", "BUSH", "CORN"),
    "instrument": ("DRUM", "FLUTE", "PIANO", "VIOLIN", "HARP", "HORN", "GUITAR", "CELLO", "BELL", "ORGAN", "LUTE", "OBOE"),
}
# Known from text, never written in a training picture: the last two of every kind.
HELD_WORDS = tuple(word for words in KINDS.values() for word in words[-2:])
DRAWN_WORDS = tuple(word for words in KINDS.values() for word in words[:-2])
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}

FRUIT_OF = {
    "red": "cherry",
    "orange": "apricot",
    "yellow": "banana",
    "green": "lime",
    "blue": "blueberry",
    "purple": "plum",
    "white": "lychee",
    "black": "blackberry",
}
CORNERS = {"circle": 0, "triangle": 3, "square": 4, "star": 10, "cross": 12, "heart": 1}
LIKE = {"circle": "coin", "triangle": "tent", "square": "window", "star": "starfish", "cross": "plus sign", "heart": "leaf"}
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)


@dataclass(frozen=True)
class Thing:
    """A shape in one of the nine places: rows and columns 0, 1, 2 from the top left."""

    shape: str
    colour: str
    size: Size
    row: int
    column: int

    @property
    def name(self) -> str:
        """What it is called: `red circle`."""
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        """Where it is: `top left`."""
        return PLACES[self.row][self.column]


@dataclass(frozen=True)
class Writing:
    """A word in capitals or a number, written across one of the three rows."""

    text: str
    row: int

    @property
    def is_number(self) -> bool:
        """Whether it is digits."""
        return self.text.isdigit()

    @property
    def place(self) -> str:
        """Where it stands: `at the top`."""
        return ROWS[self.row]


def plural(noun: str) -> str:
    """`circles`, `crosses`."""
    return noun + ("es" if noun.endswith("s") else "s")


def a(noun: str) -> str:
    """A noun with its article: `an orange circle`."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def listed(parts: list[str]) -> str:
    """`one`, `one and two`, `one, two and three`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
