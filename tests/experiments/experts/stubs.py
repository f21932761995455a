"""Experts that say what they were shown, planners that read from a script, and a language model that repeats."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.experiments.experts.expert import Finding


@dataclass
class Stub:
    """An expert that always finds the same, and counts."""

    kind: str
    finds: str
    name: str = ""
    cuts: tuple[str, ...] = ()
    shown: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    words: str = "does its work"

    def __post_init__(self) -> None:
        self.name = self.name or self.kind

    def look(self, picture: Image.Image, request: str) -> Finding:
        self.shown.append((picture.size, request))
        return Finding(self.finds, tuple((name, picture.resize((5, 5))) for name in self.cuts))


class Scripted:
    """A ChatModel that reads its replies from a list, and keeps what it was asked."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.heard = list(replies), []
        self.batches: list[int] = []

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        self.batches.append(len(conversations))
        self.heard += conversations
        return [self.replies.pop(0) for _ in conversations]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        (answer,) = self.answers([conversation], decoding)
        yield from answer


class Repeater:
    """A language model that says the last line it was given, and refuses to see."""

    def __init__(self) -> None:
        self.heard: list[Conversation] = []

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        self.heard += conversations
        assert not any(talk.pictures for talk in conversations)
        return [talk.messages[-1].text.splitlines()[-1] for talk in conversations]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        (answer,) = self.answers([conversation], decoding)
        yield from answer.split(" ")


def about(question: str, pictures: int = 1, colour: tuple[int, int, int] = (9, 9, 9)) -> Conversation:
    """A question about so many pictures, each another width."""
    shown = [Picture(Image.new("RGB", (20 + number, 30), colour)) for number in range(pictures)]
    return Conversation(()).said("user", *shown, question)
