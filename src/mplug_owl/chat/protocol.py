"""What a model that answers has to have, and how words are chosen: the border between whoever asks and whoever answers."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError

# Logits are divided by the temperature, and a smaller one would make them infinite.
COLDEST = 1e-6


@dataclass(frozen=True)
class Decoding:
    """How words are chosen and where an answer ends.

    Args:
        max_new_tokens: An answer has at most so many tokens.
        temperature: 0 picks the likeliest token; above, tokens are drawn.
        top_p: Tokens are drawn from this share of the likeliest mass.
        stop: An answer ends before the first of these words.
        repetition_penalty: 1 is none; above, tokens of prompt and answer become less likely (arXiv 1909.05858).

    Raises:
        UserError: A value is out of its range.

    Example:
        >>> from mplug_owl import Decoding
        >>> Decoding(max_new_tokens=64, stop=("Human:",)).temperature
        0.0
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 0.9
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        ranges = {
            f"max_new_tokens is {self.max_new_tokens}; expected at least 1": self.max_new_tokens >= 1,
            f"temperature is {self.temperature:g}; expected at least 0": self.temperature >= 0,
            f"top_p is {self.top_p:g}; expected above 0 and at most 1": 0 < self.top_p <= 1,
            f"stop is {self.stop!r}; expected words, none of them empty": not isinstance(self.stop, str) and all(self.stop),
            f"repetition_penalty is {self.repetition_penalty:g}; expected above 0": self.repetition_penalty > 0,
        }
        for problem, fine in ranges.items():
            if not fine:
                raise UserError(problem)


class ChatModel(Protocol):
    """Whoever answers: our own models, other libraries', a server, a file of answers. Plug in any object that has these."""

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order."""

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes. The parts joined are what `answers` gives; closing the generator stops the answer."""


@runtime_checkable
class AnswersArrive(Protocol):
    """A ChatModel that can say each answer as soon as it is whole, so that whoever writes them down loses none."""

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """The position of each conversation and the next answer in it, once each, in any order."""


def arriving(model: ChatModel, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
    """Each answer with its conversation's position: as soon as it is whole where the model can, else all at the end."""
    if isinstance(model, AnswersArrive):
        yield from model.arriving(conversations, decoding)
    else:
        yield from enumerate(model.answers(conversations, decoding))
