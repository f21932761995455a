"""The world of the tests: one shape, in one colour, at one place of the picture; learned by heart in seconds.

Everything is a pure function of a seed. No two pictures of a scene are alike: the shape moves, grows and turns a little, the
ground has its own shade and noise, so a picture cannot be learned by heart as a row of pixels.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

SHAPES = {"circle": 0, "triangle": 3, "square": 4, "star": 5}
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 138, 30),
    "yellow": (244, 210, 40),
    "green": (44, 160, 66),
    "blue": (40, 96, 214),
    "purple": (132, 60, 176),
    "white": (246, 246, 246),
    "black": (28, 28, 28),
}
PLACES = {
    "in the top left": (0.27, 0.27),
    "in the top right": (0.73, 0.27),
    "in the middle": (0.5, 0.5),
    "in the bottom left": (0.27, 0.73),
    "in the bottom right": (0.73, 0.73),
}


@dataclass(frozen=True)
class Scene:
    """What there is to see; `seed` decides how it is drawn and in which words it is told."""

    shape: str
    colour: str
    place: str
    seed: int

    @property
    def caption(self) -> str:
        """One sentence that tells all of it."""
        thing = f"{self.colour} {self.shape}"
        article = "an" if self.colour[0] in "aeiou" else "a"
        wordings = (
            f"{article.capitalize()} {thing} {self.place}.",
            f"There is {article} {thing} {self.place}.",
            f"The picture shows {article} {thing} {self.place}.",
        )
        return Random(self.seed).choice(wordings)

    @property
    def plainly(self) -> str:
        """The bare facts, as the text-only lessons give them in a picture's place."""
        return f"{self.shape}, {self.colour}, {self.place}"

    def questions(self) -> list[tuple[str, str]]:
        """Three questions and their answers, in an order of this scene's own."""
        asked = [
            ("What shape is it?", f"It is a {self.shape}."),
            (f"What colour is the {self.shape}?", f"The {self.shape} is {self.colour}."),
            (f"Where is the {self.shape}?", f"It is {self.place}."),
        ]
        Random(self.seed + 1).shuffle(asked)
        return asked

    def draw(self, side: int = 112) -> Image.Image:
        """The picture, `side` pixels square."""
        random, noise = Random(self.seed), np.random.default_rng(self.seed)
        grey = random.randint(96, 190)
        ground = np.clip(noise.normal(grey, 9, (side, side, 3)) + noise.normal(0, 12, 3), 0, 255)
        big = Image.fromarray(ground.astype(np.uint8)).resize((2 * side, 2 * side), Image.Resampling.NEAREST)
        x, y = (2 * side * (centre + random.uniform(-0.06, 0.06)) for centre in PLACES[self.place])
        radius = 2 * side * random.uniform(0.16, 0.23)
        outline = _outline(SHAPES[self.shape], x, y, radius, random.uniform(-0.25, 0.25), self.shape == "star")
        colour = tuple(int(np.clip(level + random.randint(-14, 14), 0, 255)) for level in COLOURS[self.colour])
        ImageDraw.Draw(big).polygon(outline, fill=colour)
        return big.resize((side, side), Image.Resampling.BILINEAR)


def scenes(count: int, seed: int) -> Iterator[Scene]:
    """`count` scenes; a seed always gives the same."""
    random = Random(seed)
    for _ in range(count):
        names = (random.choice(list(options)) for options in (SHAPES, COLOURS, PLACES))
        yield Scene(*names, seed=random.randrange(2**31))


def write(folder: Path, count: int, seed: int) -> list[Scene]:
    """Draw scenes into a folder, with captions.jsonl, chats.jsonl and, told without pictures, text.jsonl."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    made = list(scenes(count, seed))
    captions, chats, text = [], [], []
    for number, scene in enumerate(made):
        name = f"{number:05d}.png"
        scene.draw().save(folder / "images" / name)
        captions.append({"image": name, "caption": scene.caption})
        chats.append({"messages": _messages(scene, [{"type": "image", "path": name}])})
        text += [{"messages": _retold(scene)}, {"messages": _messages(scene, [{"type": "text", "text": f"{scene.plainly}. "}])}]
    for name, rows in (("captions", captions), ("chats", chats), ("text", text)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def _retold(scene: Scene) -> list[dict[str, object]]:
    """A caption's lesson without its picture. A caption has no system sentence, so this has none."""
    return [
        {"role": "system", "content": ""},
        {"role": "user", "content": scene.plainly},
        {"role": "assistant", "content": scene.caption},
    ]


def _messages(scene: Scene, opening: list[dict[str, str]]) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    for question, answer in scene.questions():
        messages.append({"role": "user", "content": [*opening, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": answer})
        opening = []
    return messages


def _outline(corners: int, x: float, y: float, radius: float, turn: float, star: bool) -> list[tuple[float, float]]:
    """The corners of a regular polygon, every second one pulled in for a star; a circle has very many."""
    count = corners * 2 if star else corners or 72
    points = []
    for i in range(count):
        angle = turn - math.pi / 2 + 2 * math.pi * i / count + (math.pi / 4 if corners == 4 else 0)
        reach = radius * (0.42 if star and i % 2 else 1.0)
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points
