"""Drawing with Pillow alone, thousands of pictures a second: outlines and letters are drawn once and stamped after that.

No two pictures of a scene are alike. Things and writings move, grow and turn a little, colours and ground vary, the ground is
noisy, and writings come in two fonts and several heights.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from mplug_owl.errors import UserError
from mplug_owl.scenes.things import COLOURS, Thing, Writing

_TURNS, _FINE = 9, 4
_MIDDLE = 128  # of the noise sheets' levels
_FONTS = ("own", "serif")


def draw(things: Sequence[Thing], writings: Sequence[Writing], seed: int, side: int) -> Image.Image:
    """A picture of `side` pixels square. The same arguments always give the same pixels."""
    random = Random(seed)
    unit = side / 112
    picture = _ground(random, side)
    for thing in things:
        radius = round(unit * (random.randint(8, 10) if thing.size == "small" else random.randint(15, 18)))
        stamp = _shape(thing.shape, radius, random.randrange(_TURNS))
        colour = tuple(min(255, max(0, level + random.randint(-14, 14))) for level in COLOURS[thing.colour])
        centre = [(2 * place + 1) * side / 6 + random.randint(-4, 4) * unit for place in (thing.column, thing.row)]
        _put(picture, stamp, centre, colour)
    for writing in writings:
        stamp = _word(writing.text, random.choice(_FONTS), round(unit * random.choice((13, 15, 17, 19))), random.randint(-4, 4))
        room = max(0, side - stamp.width)  # one word in forty is wider and loses its last letter
        ink = random.choice((random.randint(0, 40), random.randint(225, 255)))
        across = stamp.width / 2 + random.random() * room
        down = (2 * writing.row + 1) * side / 6 + random.randint(-4, 4) * unit
        _put(picture, stamp, [across, down], (ink, ink, ink))
    return picture


def _ground(random: Random, side: int) -> Image.Image:
    """A grey with a tint, and noise of its own: a window somewhere in one of a few sheets of noise."""
    left, top, grey = int(random.random() * side), int(random.random() * side), 96 + random.random() * 94
    window = _noise(int(random.random() * 8), 2 * side).crop((left, top, left + side, top + side))
    tint = tuple(int(grey + random.random() * 32 - 16) for _ in range(3))
    return ImageChops.add(window, Image.new("RGB", window.size, tint), offset=-_MIDDLE)  # clipped at both ends


def _put(picture: Image.Image, stamp: Image.Image, centre: Sequence[float], colour: tuple[int, ...]) -> None:
    corner = (round(centre[0] - stamp.width / 2), round(centre[1] - stamp.height / 2))
    picture.paste(colour, corner, stamp)


@lru_cache(maxsize=16)
def _noise(number: int, side: int) -> Image.Image:
    levels = np.random.default_rng(number).normal(_MIDDLE, 9, (side, side, 3))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@lru_cache(maxsize=4096)
def _shape(shape: str, radius: int, turn: int) -> Image.Image:
    """A shape's mask, drawn large and made small for soft edges. It turns by at most 14 degrees to either side."""
    side = 2 * radius + 4
    big = Image.new("L", (side * _FINE, side * _FINE))
    angle = (turn / (_TURNS - 1) - 0.5) * 0.5
    scale, middle = radius * _FINE, side * _FINE / 2
    points = [
        (
            middle + scale * (x * math.cos(angle) - y * math.sin(angle)),
            middle + scale * (x * math.sin(angle) + y * math.cos(angle)),
        )
        for x, y in _outline(shape)
    ]
    ImageDraw.Draw(big).polygon(points, fill=255)
    return big.resize((side, side), Image.Resampling.BOX)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners within a circle of radius 1, y pointing down."""
    if shape == "heart":
        angles = [2 * math.pi * i / 60 for i in range(60)]
        return [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
            )
            for t in angles
        ]
    if shape == "cross":
        arm, reach = 0.33, 0.95
        quarter = [(arm, -reach), (arm, -arm), (reach, -arm)]
        points = []
        for turn in range(4):
            for x, y in quarter:
                for _ in range(turn):
                    x, y = -y, x
                points.append((x, y))
        return points
    if shape == "square":
        return [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]
    count = {"circle": 72, "triangle": 3, "star": 10}[shape]
    reaches = [0.42 if shape == "star" and i % 2 else 1.0 for i in range(count)]
    angles = [-math.pi / 2 + 2 * math.pi * i / count for i in range(count)]
    return [(reach * math.cos(angle), reach * math.sin(angle)) for reach, angle in zip(reaches, angles, strict=True)]


@lru_cache(maxsize=16384)
def _word(text: str, font: str, height: int, turn: int) -> Image.Image:
    """A word's mask, letters `height` pixels high, turned by so many degrees."""
    letters = [_letter(letter, font, height) for letter in text]
    gap = max(1, height // 8)
    line = Image.new("L", (sum(letter.width + gap for letter in letters) + 4, height + 6))
    place = 2
    for letter in letters:
        line.paste(letter, (place, 3))
        place += letter.width + gap
    return line.rotate(turn, Image.Resampling.BILINEAR, expand=True) if turn else line


@lru_cache(maxsize=4096)
def _letter(letter: str, font: str, height: int) -> Image.Image:
    """One letter's mask, cut to its width and scaled so that capitals fill the height."""
    face = _font(font, height * 4)
    top, bottom = face.getbbox("H")[1], face.getbbox("H")[3]
    left, _, right, _ = face.getbbox(letter)
    drawn = Image.new("L", (max(1, int(right - left)), int(bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), letter, fill=255, font=face)
    width = max(2, round(drawn.width * height / drawn.height))
    return drawn.resize((width, height), Image.Resampling.BOX)


@lru_cache(maxsize=32)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    if name == "own":
        found = ImageFont.load_default(size)
    else:
        found = ImageFont.truetype(str(files("mplug_owl") / "assets" / "DejaVuSerif-Bold-capitals.ttf"), size)
    if not isinstance(found, ImageFont.FreeTypeFont):  # Pillow's wheels have it
        raise UserError("this Pillow was built without FreeType and cannot write; pip install pillow")
    return found
