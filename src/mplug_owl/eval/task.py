"""What a task is: problems to ask about, the sittings they are asked in, and what counts as right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

# The picture is shown; it is left out of the conversation; or its description in words stands in its place.
Mode = Literal["picture", "none", "told"]


@dataclass(frozen=True)
class Problem:
    """Questions in their order, each with its right answer. The last is graded, the ones before lead up to it.

    `picture` draws or opens what is asked about, `told` says the same in words. `kind` is finer than `ability`.
    """

    ability: str
    kind: str
    turns: tuple[tuple[str, str], ...]
    picture: Callable[[], Image.Image]
    told: str

    @property
    def question(self) -> str:
        """The question that is graded."""
        return self.turns[-1][0]

    @property
    def right(self) -> str:
        """The answer that it should get."""
        return self.turns[-1][1]


@dataclass(frozen=True)
class Sitting:
    """One split of a task asked in one mode: a column called `title` in the table called `table`."""

    split: str
    mode: Mode
    title: str
    table: str


class Task(Protocol):
    """Plug in any object that has these."""

    @property
    def name(self) -> str:
        """What `owl eval MODEL NAME` calls it."""

    @property
    def sittings(self) -> Sequence[Sitting]:
        """Every split and mode that belongs to the whole exam, in the order in which they are shown."""

    def problems(self, split: str, count: int, seed: int) -> list[Problem]:
        """`count` problems an ability; the same seed gives the same ones."""

    def correct(self, problem: Problem, said: str) -> bool:
        """Whether this is the right answer."""
