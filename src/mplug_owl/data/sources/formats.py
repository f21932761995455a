"""Formats: one record of each layout to a conversation. A wrong record raises ValueError that says what would be right."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mplug_owl.conversation import IMAGE_MARK, PLAIN, SYSTEM_PROMPT, Conversation, ImageSource, Message, Picture, caption
from mplug_owl.data.sources.records import describe, field


@dataclass(frozen=True)
class Location:
    """Where a record comes from: the folder its pictures are looked for in, and its location in words, for errors."""

    folder: Path
    name: str

    def __str__(self) -> str:
        return self.name

    def picture(self, file: Any) -> ImageSource:
        """A picture's file: as it is written, else beside the data, else in `images/` beside it. Bytes are a picture already,
        and so is the pair of both that Hugging Face's data sets hold.
        """
        if isinstance(file, Mapping) and ("bytes" in file or "path" in file):
            file = file["bytes"] if file.get("bytes") is not None else file.get("path")
        if isinstance(file, (bytes, Image.Image)):
            return file
        if not isinstance(file, str) or not file:
            raise ValueError(f"{self}: an image is {describe(file) if file != '' else 'empty text'}; expected a file's path")
        if file.startswith(("http://", "https://", "data:")):
            raise ValueError(f"{self}: {file[:80]}: pictures are read from files, not fetched; download it and give its path")
        path = Path(file).expanduser()
        paths = [path] if path.is_absolute() else [self.folder / path, self.folder / "images" / path]
        for found in paths:
            if found.is_file():
                return found
        raise ValueError(f"{self}: no picture {file}; looked for {' and '.join(map(str, paths))}")


# A picture and its words: ours, an image folder's, and the endings that img2dataset and WebDataset make columns of.
IMAGE = ("image", "file_name", "jpg", "jpeg", "png", "webp")
CAPTION = ("caption", "text", "txt")


def captions(record: Any, location: Location) -> Conversation:
    """`image` and `caption`, or their other names: a picture and the words that describe it."""
    image = field(record, _present(record, *IMAGE), object, location)
    words = field(record, _present(record, *CAPTION), str, location)
    if not words.strip():
        raise ValueError(f"{location}: {_NOTHING_TO_LEARN}")
    return caption(location.picture(image), words.strip(), str(location))


def questions(record: Any, location: Location) -> Conversation:
    """`image`, `question` and `answer`: one question about one picture, as a table has them."""
    image = field(record, _present(record, *IMAGE), object, location)
    asked, answer = (field(record, name, str, location).strip() for name in ("question", "answer"))
    picture = Message("user", (Picture(location.picture(image)),))
    return Conversation((picture, Message("user", (asked,)), Message("assistant", (answer,))), name=str(location))


def text(record: Any, location: Location) -> Conversation:
    """A document, for a language model alone: every word of it is learned."""
    words = record if isinstance(record, str) else field(record, "text", str, location)
    return Conversation((Message("assistant", (words.strip(),)),), None, PLAIN, str(location))


def owl(record: Any, location: Location) -> Conversation:
    """The original's prompt string in `text`, its pictures in `image`."""
    words = field(record, "text", str, location)
    return Conversation.from_prompt(words, _images(record, location), str(location))


def llava(record: Any, location: Location) -> Conversation:
    """`conversations` of human and gpt in turn; `<image>` in a human's words stands for the picture in `image`."""
    turns, images = field(record, "conversations", list, location), _images(record, location)
    system, said, waiting = SYSTEM_PROMPT, list[Message](), iter(images)
    slots = 0
    for index, turn in enumerate(turns):
        where = f"{location}, conversations[{index}]"
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
        raise ValueError(f"{location}: {slots} {IMAGE_MARK} in the text but {len(images)} images")
    return Conversation(tuple(said), system or None, name=str(location))


def chat(record: Any, location: Location) -> Conversation:
    """`messages` in transformers' convention; image parts without a path of their own take theirs from `images`."""
    conversation = Conversation.from_chat(_with_images(record, location), str(location))
    messages = tuple(
        replace(
            message,
            parts=tuple(
                Picture(location.picture(part.source)) if isinstance(part, Picture) else part for part in message.parts
            ),
        )
        for message in conversation.messages
    )
    return replace(conversation, messages=messages)


def sharegpt(record: Any, location: Location) -> Conversation:
    """`conversations` of human and gpt, as Vicuna was trained with: words alone, and an `<image>` in them is a word.

    Answers in front of the first question are left out, as in FastChat: parts of a longer talk begin with them.
    """
    if isinstance(record, Mapping) and (record.get("image") or record.get("images")):
        raise ValueError(f"{location}: has an image; read it as llava:PATH")
    system, said = SYSTEM_PROMPT, list[Message]()
    for index, turn in enumerate(field(record, "conversations", list, location)):
        where = f"{location}, conversations[{index}]"
        speaker, words = field(turn, "from", str, where), field(turn, "value", str, where)
        if speaker == "system" and not index:
            system = words
        elif speaker in ("human", "user"):
            said.append(Message("user", (words,)))
        elif speaker not in ("gpt", "chatgpt", "assistant", "bing", "bard"):
            raise ValueError(f"{where}: from {speaker!r}; expected human or gpt")
        elif said:
            said.append(Message("assistant", (words,)))
    return Conversation(tuple(said), system or None, name=str(location))


def alpaca(record: Any, location: Location) -> Conversation:
    """`instruction`, `input` and `output`: the input, where there is one, on a line below the instruction."""
    asked = field(record, "instruction", str, location)
    if record.get("input") is not None:
        asked = f"{asked.strip()}\n{field(record, 'input', str, location)}"
    answer = field(record, "output", str, location)
    return Conversation((Message("user", (asked.strip(),)), Message("assistant", (answer,))), name=str(location))


def baize(record: Any, location: Location) -> Conversation:
    """`input`: a sentence, and below it turns that begin with `[|Human|]` and `[|AI|]`. The sentence becomes the original's."""
    _, *turns = re.split(r"(?:^|\n)\[\|(Human|AI)\|\]", field(record, "input", str, location))
    if not turns:
        raise ValueError(f"{location}: no turns; expected [|Human|] and [|AI|] at the start of lines")
    said = [
        Message("user" if speaker == "Human" else "assistant", (words.strip(),))
        for speaker, words in zip(turns[::2], turns[1::2], strict=True)
    ]
    if said[-1].role == "user":  # every talk ends where the next question would stand
        said.pop()
    return Conversation(tuple(said), name=str(location))


# What records are made of; a table's other columns are not read.
_OTHER_FIELDS = ("images", "messages", "conversations", "instruction", "input", "output", "question", "answer", "url", "URL")
FIELDS = frozenset((*IMAGE, *CAPTION, *_OTHER_FIELDS))
CONVERTERS: Mapping[str, Callable[[Any, Location], Conversation]] = {
    "captions": captions,
    "questions": questions,
    "llava": llava,
    "chat": chat,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "baize": baize,
    "owl": owl,
    "text": text,
}


def recognise(record: Any, location: object) -> str:
    """The name of the format of a record, by its fields. Raises ValueError that lists them where none fits."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{location}: {describe(record)}; expected an object")
    for name, matches in _MARKS.items():
        if matches(record):
            return name
    if any(name.lower() == "url" for name in record) and not {*IMAGE} & {*record}:
        raise ValueError(
            f"{location}: addresses of pictures, not pictures; fetch them with img2dataset and read webdataset:FOLDER"
        )
    raise ValueError(f"{location}: no known format has the fields {', '.join(map(repr, record)) or '(none)'}")


def by_fields(record: Any, location: Location) -> Conversation:
    """A record of whichever format its fields say."""
    return CONVERTERS[recognise(record, location)](record, location)


_MARKS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "chat": lambda record: "messages" in record,
    "llava": lambda record: "conversations" in record and ("image" in record or "images" in record),
    "sharegpt": lambda record: "conversations" in record,
    "alpaca": lambda record: "instruction" in record and "output" in record,
    "baize": lambda record: "[|Human|]" in str(record.get("input")),
    "owl": lambda record: bool(re.search(r"<image>|^Human: |^AI: ", str(record.get("text", "")), re.MULTILINE)),
    "questions": lambda record: bool({*IMAGE} & {*record}) and "question" in record and "answer" in record,
    "captions": lambda record: bool({*IMAGE} & {*record} and {*CAPTION} & {*record}),
    "text": lambda record: "text" in record,
}


def checked(conversation: Conversation, location: Location) -> Conversation:
    """The conversation, if there is an answer in it to learn, in characters that a tokenizer can read."""
    for words in (conversation.system or "", *(message.text for message in conversation.messages)):
        if half := re.search("[\ud800-\udfff]", words):
            raise ValueError(f"{location}: half a character, \\u{ord(half[0]):04x}, in {words[:40]!a}")
    if not any(answer.strip() for answer in conversation.answers):
        raise ValueError(f"{location}: {_NOTHING_TO_LEARN if conversation.style is PLAIN else _NO_ANSWER}")
    return conversation


_NOTHING_TO_LEARN = "no words to learn; the text is empty"
_NO_ANSWER = "no answer to learn; expected at least one with words in it"


def _present(record: Any, *names: str) -> str:
    """The first of these names that the record has; the first of all where it has none."""
    return next((name for name in names if isinstance(record, Mapping) and name in record), names[0])


def _images(record: Any, location: Location) -> list[ImageSource]:
    """What a record says about pictures: nothing, one of them or a list, in `image` or `images`."""
    files = record.get(_present(record, "image", "images"))
    if files is None:
        return []
    return [location.picture(file) for file in (files if isinstance(files, list) else [files])]


def _llava_parts(words: str, pictures: Iterator[ImageSource]) -> Iterator[str | Picture]:
    """Words and pictures in their order."""
    return (Picture(next(pictures)) if part is None else part for part in _llava_places(words))


def _llava_places(words: str) -> Iterator[str | None]:
    """Words, and None where a picture stands; the line break between them is the mark's, not the words'.

    One picture behind the words comes in front of them: LLaVA's own reader does so.
    """
    if words.count(IMAGE_MARK) == 1 and words.endswith(IMAGE_MARK):
        words = IMAGE_MARK + words.removesuffix(IMAGE_MARK).removesuffix("\n")
    for index, stretch in enumerate(re.split(f"\n?{IMAGE_MARK}\n?", words)):
        if index:
            yield None
        if stretch:
            yield stretch


def _with_images(record: Any, location: Location) -> Sequence[Any]:
    """The messages, their pictures put in: at image parts that name none, or where the words say `<image>`."""
    messages = field(record, "messages", list, location)
    if record.get(name := _present(record, "images", "image")) is None:
        return messages
    images = record[name] if isinstance(record[name], list) else [record[name]]
    waiting, used = iter(images), 0
    filled = []
    for message in messages:
        parts = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(parts, str) and message.get("role") == "user" and IMAGE_MARK in parts:
            parts = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in _llava_places(parts)]
        if isinstance(parts, list):
            # Columns of a table give every part every field, most of them without a value.
            parts = [_valued(part) for part in parts]
            places = [index for index, part in enumerate(parts) if part == {"type": "image"}]
            used += len(places)
            for index, image in zip(places, waiting, strict=False):
                parts[index] = {"type": "image", "image": image}
            message = {**message, "content": parts}
        filled.append(message)
    if used != len(images):
        raise ValueError(f"{location}: {used} image parts in the messages but {len(images)} images")
    return filled


def _valued(part: Any) -> Any:
    return {name: value for name, value in part.items() if value is not None} if isinstance(part, Mapping) else part
