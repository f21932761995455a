"""A task for tests: what is written on a card, and what was written before it, right or wrong by plain comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mplug_owl.eval.task import Problem, Sitting

SITTINGS = (
    Sitting("plain", "picture", "shown", "cards"),
    Sitting("plain", "none", "hidden", "cards"),
    Sitting("plain", "told", "told", "cards"),
    Sitting("odd", "picture", "shown", "odd cards"),
)


def problem(number: int, ability: str = "reading", turns: int = 1) -> Problem:
    asked = tuple((f"What is on card {number}, line {turn}?", f"line {turn} of {number}.") for turn in range(turns))
    return Problem(ability, "card", asked, lambda: Image.new("RGB", (28, 28), (number % 256, 90, 120)), f"card {number}")


@dataclass(frozen=True)
class Quiz:
    name: str = "quiz"
    sittings: Sequence[Sitting] = SITTINGS

    def problems(self, split: str, count: int, seed: int) -> list[Problem]:
        abilities = ("reading", "talking") if split == "plain" else ("reading",)
        return [problem(seed + number, ability, 1 + (ability == "talking")) for ability in abilities for number in range(count)]

    def correct(self, problem: Problem, said: str) -> bool:
        return said == problem.right
