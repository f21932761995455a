"""Formats: one record of each layout to a conversation. A wrong record raises ValueError that says what would be right."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mplug_owl.conversation import IMAGE_MARK, PLAIN, SYSTEM_PROMPT, Conversation, Message, Picture, caption
from mplug_owl.data.records import describe, field


@dataclass(frozen=True)
class Place:
    """Where a record comes from: the folder its pictures are looked for in, and its place in words, for errors."""

    folder: Path
    name: str

    def __str__(self) -> str:
        return self.name

    def picture(self, file: Any) -> Path:
        """A picture's file: as it is written, else beside the data, else in `images/` beside it."""
        if not isinstance(file, str) or not file:
            raise ValueError(f"{self}: an image is {describe(file) if file != '' else 'empty text'}; expected a file's path")
        if file.startswith(("http://", "https://", "data:")):
            raise ValueError(f"{self}: {file[:80]}: pictures are read from files, not fetched; download it and give its path")
        path = Path(file).expanduser()
        places = [path] if path.is_absolute() else [self.folder / path, self.folder / "images" / path]
        for place in places:
            if place.is_file():
                return place
        raise ValueError(f"{self}: no picture {file}; looked for {' and '.join(map(str, places))}")


def captions(record: Any, place: Place) -> Conversation:
    """`image` and `caption` (or `text`): a picture and the words that describe it."""
    image = field(record, "image", str, place)
    words = field(record, "caption" if "caption" in record or "text" not in record else "text", str, place)
    if not words.strip():
        raise ValueError(f"{place}: {_NOTHING_TO_LEARN}")
    return caption(place.picture(image), words.strip(), str(place))


def text(record: Any, place: Place) -> Conversation:
    """A document, for a language model alone: every word of it is learned."""
    words = record if isinstance(record, str) else field(record, "text", str, place)
    return Conversation((Message("assistant", (words.strip(),)),), None, PLAIN, str(place))


def owl(record: Any, place: Place) -> Conversation:
    """The original's prompt string in `text`, its pictures in `image`."""
    words = field(record, "text", str, place)
    return Conversation.from_prompt(words, _images(record, "image", place), str(place))


def llava(record: Any, place: Place) -> Conversation:
    """`conversations` of human and gpt in turn; `<image>` in a human's words stands for the picture in `image`."""
    turns, images = field(record, "conversations", list, place), _images(record, "image", place)
    system, said, waiting = SYSTEM_PROMPT, list[Message](), iter(images)
    slots = 0
    for index, turn in enumerate(turns):
        where = f"{place}, conversations[{index}]"
        speaker, words = field(turn, "from", str, where), field(turn, "value", str, where)
        if speaker == "system" and not index:
            system = words
        elif speaker in ("gpt", "assistant"):
            said.append(Message("assistant", (words,)))
        elif speaker in ("human", "user"):
            slots += words.count(IMAGE_MARK)
            if slots <= len(images):
                said.append(Message("user", tuple(_llava_parts(words, waiting))))
        else:
            raise ValueError(f"{where}: from {speaker!r}; expected human or gpt")
    if slots != len(images):
        raise ValueError(f"{place}: {slots} {IMAGE_MARK} in the text but {len(images)} images")
    return Conversation(tuple(said), system or None, name=str(place))


def chat(record: Any, place: Place) -> Conversation:
    """`messages` in transformers' convention; image parts without a path of their own take theirs from `images`."""
    conversation = Conversation.from_chat(_with_images(record, place), str(place))
    messages = tuple(
        replace(
            message,
            parts=tuple(Picture(place.picture(part.source)) if isinstance(part, Picture) else part for part in message.parts),
        )
        for message in conversation.messages
    )
    return replace(conversation, messages=messages)


def checked(conversation: Conversation, place: Place) -> Conversation:
    """The conversation, if there is an answer in it to learn, in characters that a tokenizer can read."""
    for words in (conversation.system or "", *(message.text for message in conversation.messages)):
        if half := re.search("[\ud800-\udfff]", words):
            raise ValueError(f"{place}: half a character, \\u{ord(half[0]):04x}, in {words[:40]!a}")
    if not any(answer.strip() for answer in conversation.answers):
        raise ValueError(f"{place}: {_NOTHING_TO_LEARN if conversation.style is PLAIN else _NO_ANSWER}")
    return conversation


_NOTHING_TO_LEARN = "no words to learn; the text is empty"
_NO_ANSWER = "no answer to learn; expected at least one with words in it"


def _images(record: Any, name: Literal["image", "images"], place: Place) -> list[Path]:
    """What a record says about pictures: nothing, one path or a list of them."""
    files = record.get(name)
    if files is None:
        return []
    return [place.picture(file) for file in (files if isinstance(files, list) else [files])]


def _llava_parts(words: str, pictures: Iterator[Path]) -> Iterator[str | Picture]:
    """Words and pictures in their order; the line break between them is the mark's, not the words'.

    One picture behind the words comes in front of them: LLaVA's own reader does so.
    """
    if words.count(IMAGE_MARK) == 1 and words.endswith(IMAGE_MARK):
        words = IMAGE_MARK + words.removesuffix(IMAGE_MARK).removesuffix("\n")
    for index, stretch in enumerate(re.split(f"\n?{IMAGE_MARK}\n?", words)):
        if index:
            yield Picture(next(pictures))
        if stretch:
            yield stretch


def _with_images(record: Any, place: Place) -> Sequence[Any]:
    messages = field(record, "messages", list, place)
    if "images" not in record:
        return messages
    images = record["images"] if isinstance(record["images"], list) else [record["images"]]
    filled, used = [], 0
    for message in messages:
        if isinstance(message, dict) and isinstance(parts := message.get("content"), list):
            parts = list(parts)
            for index, part in enumerate(parts):
                if part == {"type": "image"}:
                    parts[index] = {"type": "image", "image": images[used]} if used < len(images) else part
                    used += 1
            message = {**message, "content": parts}
        filled.append(message)
    if used != len(images):
        raise ValueError(f"{place}: {used} image parts in the messages but {len(images)} images")
    return filled
