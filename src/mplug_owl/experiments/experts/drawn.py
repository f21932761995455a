"""The drawn world's own tagger and detector: a program that knows how its things look, and nothing about other pictures.

Ground and noise are smoothed away, whatever differs from the ground in the middle of a ninth is grown to its edges, and its
outline is compared with those of things drawn alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mplug_owl.experiments.experts.expert import Finding
from mplug_owl.scenes.things import COLOURS, SHAPES, Size, Thing
from mplug_owl.scenes.world import SIDE, Scene

Mask = NDArray[np.bool_]
# Colours vary by 14 of 255, noise by 9, and a ninth's mean by 3 of that: what differs by this much is no ground.
GROUND = 22
# A thing is at most so far from the middle of its ninth: 18, and 4 that it is moved.
REACH = 24
# So far from a colour's own a thing's is at most; letters are thin and blend with the ground.
COLOURED = 34
# Outlines are compared at this size, and one that fits none so well is a letter.
OUTLINE, FITS = 24, 0.8
# The radius of a small thing is 10 at most, of a large one 15 at least; the smallest large one, a triangle, is so wide or high.
LARGE = 22
# Things are turned by at most 14 degrees: so many are drawn of each shape and size.
EXAMPLES = 12


@dataclass(frozen=True)
class SceneDetector:
    """What things there are in a scene of the drawn world, and where: `large red circle top left`."""

    name: str = "detect"
    kind: str = "detect"
    words: str = "names the shapes in the picture with size, colour and position"

    def look(self, picture: Image.Image, request: str) -> Finding:
        """The things in reading order, as a scene's description has them."""
        return Finding(", ".join(f"{thing.size} {thing.name} {thing.place}" for thing in things_in(picture)))


@dataclass(frozen=True)
class SceneTagger:
    """What things there are in a scene of the drawn world, and not where: `red circle, blue star`."""

    name: str = "tag"
    kind: str = "tag"
    words: str = "names the shapes in the picture with their colours"

    def look(self, picture: Image.Image, request: str) -> Finding:
        """The things in reading order."""
        return Finding(", ".join(thing.name for thing in things_in(picture)))


def things_in(picture: Image.Image) -> list[Thing]:
    """The things of a scene, in reading order."""
    smooth = _smoothed(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    found = []
    for row in range(3):
        for column in range(3):
            if (seen := _outlined(smooth, row, column)) is not None and (thing := _named(*seen, row, column)) is not None:
                found.append(thing)
    return found


def _smoothed(picture: Image.Image) -> NDArray[np.float64]:
    """Pixels [S, S, 3], each the mean of the nine around it."""
    wide = np.pad(np.asarray(picture, dtype=np.float64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    side = picture.width
    shifted: list[NDArray[np.float64]] = [wide[down : down + side, across : across + side] for down, across in _nine()]
    return np.mean(shifted, axis=0)


def _nine() -> Iterator[tuple[int, int]]:
    return ((down, across) for down in range(3) for across in range(3))


def _outlined(smooth: NDArray[np.float64], row: int, column: int) -> tuple[Mask, NDArray[np.float64]] | None:
    """Outline and colour of what is in the middle of a ninth; None where that is ground."""
    down, across = (round((2 * number + 1) * SIDE / 6) for number in (row, column))
    around = smooth[max(0, down - REACH) : down + REACH, max(0, across - REACH) : across + REACH]
    differs = np.abs(around - np.median(smooth, axis=(0, 1))).max(-1)
    top, left = min(down, REACH) - 5, min(across, REACH) - 5
    middle = slice(top, top + 11), slice(left, left + 11)
    inner = differs[middle] > GROUND
    if inner.mean() < 0.3:
        return None
    colour = np.median(around[middle][inner], axis=0)
    alike = (differs > GROUND / 2) & (np.abs(around - colour).max(-1) < differs)  # nearer to the colour than to the ground
    seed = np.zeros_like(alike)
    seed[middle] = alike[middle]
    outline = _cut(_grown(seed, alike))
    return None if outline is None else (outline, colour)


def _named(outline: Mask, colour: NDArray[np.float64], row: int, column: int) -> Thing | None:
    """The thing of an outline and a colour; None where it is a letter."""
    name = min(COLOURS, key=lambda name: float(((colour - COLOURS[name]) ** 2).sum()))
    size: Size = "large" if max(outline.shape) > LARGE else "small"
    shape, fit = max(((shape, _overlap(outline, one)) for shape, one in _examples(size)), key=lambda pair: pair[1])
    if fit < FITS or np.abs(colour - COLOURS[name]).max() > COLOURED:
        return None
    return Thing(shape, name, size, row, column)


def _grown(seed: Mask, within: Mask) -> Mask:
    """All of `within` that hangs together with the seed."""
    while True:
        wide = np.pad(seed, 1)
        tall = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
        grown = (tall[:-2] | tall[1:-1] | tall[2:]) & within
        if (grown == seed).all():
            return seed
        seed = grown


def _cut(mask: Mask) -> Mask | None:
    """A mask's bounding box; None where it holds hardly anything."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) < 8 or len(columns) < 8:
        return None
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap(one: Mask, other: Mask) -> float:
    """Intersection over union of two outlines brought to one size."""
    first, second = _sized(one), _sized(other)
    return float((first & second).sum() / (first | second).sum())


def _sized(mask: Mask) -> Mask:
    """A mask at OUTLINE x OUTLINE, filling it."""
    rows, columns = (np.linspace(0, length - 1, OUTLINE).round().astype(int) for length in mask.shape)
    return mask[np.ix_(rows, columns)]


@cache
def _examples(size: Size) -> tuple[tuple[str, Mask], ...]:
    """Outlines of every shape drawn alone in the middle, in several turns."""
    found = []
    for shape in SHAPES:
        for seed in range(EXAMPLES):
            drawn = Scene((Thing(shape, "red", size, 1, 1),), (), seed).draw()
            if (seen := _outlined(_smoothed(drawn), 1, 1)) is not None:
                found.append((shape, seen[0]))
    return tuple(found)
