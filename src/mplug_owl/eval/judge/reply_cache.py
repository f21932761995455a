"""A judge's replies by what it was asked, so that a second run costs nothing and one that was killed resumes."""

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from PIL import Image

from mplug_owl.chat import ChatModel, Decoding, arriving
from mplug_owl.conversation import Conversation, ImageSource, Picture
from mplug_owl.eval.lines import AppendedLines, read_lines, text


class ReplyCache:
    """Replies by key: in memory, and in a file of JSON lines where there is one, each on the disk when `add` returns."""

    def __init__(self, path: Path | None = None) -> None:
        self._replies: dict[str, str] = {}
        self._lines = AppendedLines(path) if path is not None else None  # first: it cuts off what a crash left
        for number, row in read_lines(path) if path is not None else ():
            where = f"{path}, line {number}"
            self._replies[text(row, "key", where)] = text(row, "reply", where)

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> str | None:
        """The reply of this key, if there is one."""
        return self._replies.get(key)

    def add(self, key: str, reply: str) -> None:
        """Keep a reply. Raises WriteError where the disk is full."""
        self._replies[key] = reply
        if self._lines is not None:
            self._lines.append({"key": key, "reply": reply})


class CachedChatModel:
    """A ChatModel that is asked the same only once: words, pictures' content, decoding and its name make up the key.

    Args:
        model: Who answers what is not known yet.
        name: What it is called; another model's replies are never taken for its.
        cache: Where replies are kept.
        round: Another round asks again what an earlier one knows.
    """

    def __init__(self, model: ChatModel, name: str, cache: ReplyCache, round: int = 0) -> None:  # noqa: A002
        self.model, self.name, self.cache, self.round = model, name, cache, round

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order."""
        found = dict(self.arriving(conversations, decoding))
        return [found[position] for position in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Known answers first, then the others as they come, each written down before it is passed on."""
        positions: dict[str, list[int]] = {}
        digests: dict[int, str] = {}
        for position, talk in enumerate(conversations):
            positions.setdefault(self._key(talk, decoding, digests), []).append(position)
        unknown = []
        for key, where in positions.items():
            reply = self.cache.get(key)
            if reply is None:
                unknown.append(key)
            else:
                yield from ((position, reply) for position in where)
        missing = [conversations[positions[key][0]] for key in unknown]
        for index, reply in arriving(self.model, missing, decoding) if missing else ():
            self.cache.add(unknown[index], reply)
            yield from ((position, reply) for position in positions[unknown[index]])

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer, in one part where it is known."""
        key = self._key(conversation, decoding, {})
        reply = self.cache.get(key)
        if reply is not None:
            yield reply
            return
        parts = []
        for part in self.model.stream(conversation, decoding):
            parts.append(part)
            yield part
        self.cache.add(key, "".join(parts))

    def _key(self, talk: Conversation, decoding: Decoding, digests: dict[int, str]) -> str:
        """`digests` remembers pictures within one call: several conversations show the same one."""
        messages = []
        for message in talk.messages:
            parts = [part if isinstance(part, str) else {"picture": _known(part, digests)} for part in message.parts]
            messages.append([message.role, parts])
        asked_for = [self.name, self.round, repr(decoding), talk.system, messages]
        return hashlib.sha256(json.dumps(asked_for).encode()).hexdigest()


def picture_digest(source: ImageSource) -> str:
    """A digest of what a picture holds: of its pixels where it is open, of its bytes where it is a file."""
    if isinstance(source, Image.Image):
        return hashlib.sha256(f"{source.mode} {source.size} ".encode() + source.tobytes()).hexdigest()
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    path = Path(source)
    return hashlib.sha256(path.read_bytes() if path.is_file() else str(source).encode()).hexdigest()


def _known(picture: Picture, digests: dict[int, str]) -> str:
    identity = id(picture.source)
    if identity not in digests:
        digests[identity] = picture_digest(picture.source)
    return digests[identity]
