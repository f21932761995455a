"""The story of an owl as one page: the world it was shown, who learned what in which stage, and what it answers now.

page = Story(title="The little owl", lede="...", stages=[Stage("stage 0", ...), ...], ...)
write(page, Path("runs/demo/story.html"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mplug_owl.eval.statistics import Figures
from mplug_owl.page.render import render
from mplug_owl.train.trainable import Part


@dataclass(frozen=True)
class Stage:
    """One stage of the school. `name` is short ("stage 1") and marks its answers and bars; `words` is a sentence or two.

    `losses` are (step, loss). `exam` is what the owl could do after it, None where it was not asked: its first column is with
    the picture, its second without, as `statistics.figures` gives them.
    """

    name: str
    title: str
    words: str
    trainable: Sequence[Part]
    losses: Sequence[tuple[float, float]]
    exam: Figures | None = None


@dataclass(frozen=True)
class StageAnswer:
    """What the owl answered after a stage."""

    stage: str
    answer: str
    correct: bool


@dataclass(frozen=True)
class Exchange:
    """A question about a picture, its target and the answers stage by stage; `earlier` questions lead up to it."""

    ability: str
    picture: Image.Image
    question: str
    target: str
    answers: Sequence[StageAnswer]
    earlier: Sequence[str] = ()


@dataclass(frozen=True)
class Command:
    """What to type, and why."""

    words: str
    command: str


@dataclass(frozen=True)
class Story:
    """The whole page. `facts` are pairs such as ("4.1 M", "parameters"); `pictures` is a sheet of the world."""

    title: str
    lede: str
    stages: Sequence[Stage]
    exchanges: Sequence[Exchange] = ()
    facts: Sequence[tuple[str, str]] = ()
    pictures: Image.Image | None = None
    about_pictures: str = ""
    commands: Sequence[Command] = ()


@dataclass(frozen=True)
class Bar:
    """One stage's bar of an ability, in percent: its length, its interval, and the mark of what it is without the picture."""

    stage: str
    length: float
    low: float
    high: float
    blind: float | None
    strength: int


@dataclass(frozen=True)
class Curve:
    """A loss curve in a space 320 wide and 150 high, the y axis from 0: its line, the heights of its grid and their labels."""

    line: str
    end: tuple[str, str]
    grid: tuple[tuple[float, str], ...]
    steps: tuple[float, float]
    losses: tuple[float, float]


LEFT, RIGHT, TOP, BOTTOM = 30, 312, 10, 130


def write(story: Story, target: Path) -> Path:
    """The page as one HTML file that asks no network for anything. It makes the folder, and replaces a page there before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    examined = [stage for stage in story.stages if stage.exam is not None]
    page = render(
        "experiments/story.html.jinja",
        title=story.title,
        story=story,
        curves=[curve(stage.losses) for stage in story.stages],
        bars=bars(examined),
        examined=examined,
    )
    target.write_text(page, encoding="utf-8")
    return target


def bars(stages: Sequence[Stage]) -> dict[str, list[Bar]]:
    """The bars of each ability, a stage after the other, each darker than the one before."""
    found: dict[str, list[Bar]] = {}
    for number, stage in enumerate(stages, 1):
        for ability, shares in stage.exam.rows if stage.exam is not None else ():
            low, high = shares[0].interval
            blind = 100 * shares[1].value if len(shares) > 1 else None
            length, strength = 100 * shares[0].value, round(100 * number / len(stages))
            found.setdefault(ability, []).append(Bar(stage.name, length, 100 * low, 100 * high, blind, strength))
    return found


def curve(points: Sequence[tuple[float, float]]) -> Curve | None:
    """A line through (step, loss) points, None where there are fewer than two."""
    if len(points) < 2:
        return None
    (first, opening), (last, end) = points[0], points[-1]
    top = max(loss for _, loss in points)
    distance = next(d * 10.0**power for power in range(-6, 12) for d in (1, 2, 5) if top <= 5 * d * 10.0**power)
    ceiling = distance * max(1, -(-top // distance))

    def height(loss: float) -> float:
        return round(BOTTOM - loss / ceiling * (BOTTOM - TOP), 1)

    drawn = [(f"{LEFT + (step - first) / (last - first) * (RIGHT - LEFT):.1f}", f"{height(loss)}") for step, loss in points]
    levels = [distance * number for number in range(round(ceiling / distance) + 1)]
    grid = tuple((height(mark), f"{mark:g}") for mark in levels)
    return Curve(" ".join(f"{x},{y}" for x, y in drawn), drawn[-1], grid, (first, last), (opening, end))
