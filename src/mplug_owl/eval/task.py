"""What a task is: questions about pictures, the conditions they are asked in, and who grades the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from PIL import Image

from mplug_owl.conversation import SYSTEM_PROMPT, Picture

if TYPE_CHECKING:  # a grade holds its question
    from mplug_owl.eval.grade import Grader

# What the model gets: the picture, nothing, or the picture's description in words.
Mode = Literal["picture", "none", "description"]


@dataclass(frozen=True)
class Question:
    """Turns in their order, each with its target answer. The last is graded, the ones before lead up to it.

    Args:
        id: What it is called, one name for each question of a split.
        ability: What it tries; a row of the tables.
        kind: Finer than the ability.
        turns: Words and target answer, turn by turn. A target is empty where only people or a judge can grade.
        picture: Draws or opens what is asked about; None where the question has words alone.
        description: The picture in words.
        image: The picture's name. Questions about one picture are resampled together; the id where it is empty.
        references: Further correct answers to the last turn, besides its target.
        abilities: All that it needs, where a table counts it more than once; its ability alone where it is empty.
        parts: What the user says turn by turn, with pictures inside; the picture and then the words where it is empty.
        system: The system sentence above the conversation.
    """

    id: str
    ability: str
    kind: str
    turns: tuple[tuple[str, str], ...]
    picture: Callable[[], Image.Image] | None = None
    description: str = ""
    image: str = ""
    references: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    parts: tuple[tuple[str | Picture, ...], ...] = ()
    system: str | None = SYSTEM_PROMPT

    @property
    def text(self) -> str:
        """The words of the turn that is graded."""
        return self.turns[-1][0]

    @property
    def target(self) -> str:
        """The answer that it should get."""
        return self.turns[-1][1]

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every correct answer to the last turn: the target and its references; none where only people or a judge can grade."""
        return tuple(words for words in (self.target, *self.references) if words.strip())

    @property
    def cluster(self) -> str:
        """What its answers share with those to other questions: the picture's name, or its own."""
        return self.image or self.id

    def prompt(self, turn: int) -> tuple[str, ...]:
        """The picture's name and all words up to a turn: questions that begin alike share these answers."""
        return (self.cluster, *(words for words, _ in self.turns[: turn + 1]))


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
    def grader(self) -> "Grader | None":
        """Who says which answers are correct; None where people or a judge do so afterwards."""

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        """At most `count` questions an ability where they are drawn, in all where they are read; the same seed, the same ones.

        None is as many as belong to the exam.
        """
