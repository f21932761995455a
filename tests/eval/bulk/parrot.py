"""A model that says what it was asked, and may die at any answer."""

import os
import signal
from collections.abc import Generator, Iterator, Sequence

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.errors import BadSample
from mplug_owl.model.images import open_image


class Parrot:
    """Says the last words back, and how many pictures it saw. It dies for good before its answer number `dies`.

    Args:
        dies: So many answers, then SIGKILL to the process; None for never.
    """

    def __init__(self, dies: int | None = None) -> None:
        self.left = dies
        self.asked: list[Conversation] = []

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        for index in reversed(range(len(conversations))):  # in any order
            if self.left is not None:
                if self.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.left -= 1
            talk = conversations[index]
            for picture in talk.pictures:
                try:
                    open_image(picture.source)
                except BadSample:
                    raise BadSample("a picture of somebody's") from None
            self.asked.append(talk)
            yield index, f"{talk.messages[-1].text}, {len(talk.pictures)}"

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        yield from self.answers([conversation], decoding)
