"""A task for tests: what is written on a card, and what was written before it; and a model that only listens."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.eval.grade import Grader
from mplug_owl.eval.graders.exact import ExactMatch
from mplug_owl.eval.task import Condition, Question

CONDITIONS = (
    Condition("plain", "picture", "shown", "cards"),
    Condition("plain", "none", "hidden", "cards"),
    Condition("plain", "description", "described", "cards"),
    Condition("odd", "picture", "shown", "odd cards"),
)


def question(number: int, ability: str = "reading", turns: int = 1) -> Question:
    asked = tuple((f"What is on card {number}, line {turn}?", f"line {turn} of {number}.") for turn in range(turns))
    return Question(
        f"{ability}-{number}-{turns}",
        ability,
        "card",
        asked,
        lambda: Image.new("RGB", (28, 28), (number % 256, 90, 120)),
        f"card {number}",
    )


@dataclass(frozen=True)
class Quiz:
    name: str = "quiz"
    conditions: Sequence[Condition] = CONDITIONS
    grader: Grader | None = field(default_factory=ExactMatch)

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        abilities = ("reading", "talking") if split == "plain" else ("reading",)
        return [
            question(seed + number, ability, 1 + (ability == "talking"))
            for ability in abilities
            for number in range(count or 9)
        ]


class Listener:
    """A ChatModel that says which card and line it was asked about, and how many messages it saw."""

    def __init__(self) -> None:
        self.heard: list[Conversation] = []

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        self.heard.extend(conversations)
        return [f"{talk.messages[-1].text[-18:]} {len(talk.messages)}" for talk in conversations]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        raise NotImplementedError("an exam asks many at once")
