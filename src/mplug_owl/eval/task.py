"""What a task is: questions about pictures, the conditions they are asked in, and who grades the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from PIL import Image

if TYPE_CHECKING:  # a grade holds its question
    from mplug_owl.eval.grade import Grader

# What the model gets: the picture, nothing, or the picture's description in words.
Mode = Literal["picture", "none", "description"]


@dataclass(frozen=True)
class Question:
    """Turns in their order, each with its target answer. The last is graded, the ones before lead up to it.

    `picture` draws or opens what is asked about, `description` says the same in words. `kind` is finer than `ability`.
    """

    ability: str
    kind: str
    turns: tuple[tuple[str, str], ...]
    picture: Callable[[], Image.Image]
    description: str

    @property
    def text(self) -> str:
        """The words of the turn that is graded."""
        return self.turns[-1][0]

    @property
    def target(self) -> str:
        """The answer that it should get."""
        return self.turns[-1][1]


@dataclass(frozen=True)
class Condition:
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
    def conditions(self) -> Sequence[Condition]:
        """Every split and mode that belongs to the whole exam, in the order in which they are shown."""

    @property
    def grader(self) -> "Grader":
        """Who says which answers are correct."""

    def questions(self, split: str, count: int, seed: int) -> list[Question]:
        """`count` questions an ability; the same seed gives the same ones."""
