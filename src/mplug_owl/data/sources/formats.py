"""Formats: one record of each layout to a conversation. A wrong record raises BadSample that says what would be right."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from mplug_owl.conversation import IMAGE_MARK, PLAIN, Conversation, Message, Picture, caption
from mplug_owl.data.sources import talks
from mplug_owl.data.sources.location import Location
from mplug_owl.data.sources.records import describe, field, field_names, is_missing, present, texts
from mplug_owl.errors import BadSample, UserError

Convert = Callable[[Any, Location], Conversation]
IMAGE = talks.IMAGE

CAPTION = ("caption", "captions", "text", "txt")
QUESTION = ("question", "query")
ANSWER = ("answer", "multiple_choice_answer", "answers", "label", "response")
# What an owl has no sense for: a record with one of these is refused, and never learned without it.
_UNSEEN = ("video", "videos", "audio", "audios", "tools", "functions")
_PREFERENCES = ("chosen", "rejected")
# Other programs' names for pictures. A talk with one of these would lose its picture.
_ELSEWHERE = (
    *("Image", "Images", "img", "imgs", "img_path", "image_path", "image_paths", "image_file", "image_files", "image_name"),
    *("image_url", "image_urls", "picture", "pictures", "photo", "photos", "frames"),
)
_OPTIONS = ascii_uppercase[:8]
# Where others have what is chosen from, in one list.
_CHOICES = ("choices", "options")


def captions(record: Any, location: Location) -> Conversation:
    """`image` and `caption`, or their other names: a picture, or several, and the words that describe it."""
    pictures = _pictures(record, location)
    name = _first_with_value(record, *CAPTION)
    first, *others = (words.strip() for words in texts(present(record, name, location), name, location))
    if not first:
        raise BadSample(f"{location}: {_NOTHING_TO_LEARN}")
    if any(re.search(IMAGE_MARK, words, re.IGNORECASE) for words in (first, *others)):
        raise BadSample(f"{location}: {IMAGE_MARK} inside a caption, whose picture stands in front of it")
    talk = caption(pictures[0].source, first, str(location))
    messages = Message("user", tuple(pictures)), replace(talk.messages[1], alternatives=tuple(others))
    return replace(talk, messages=messages)


def questions(record: Any, location: Location) -> Conversation:
    """`image`, `question` and `answer`: one question about a picture, as a table has them.

    The `hint` and the options `A`, `B`, ... that MMBench has are part of what is asked. One `<image>` in the question is the
    picture's position; otherwise the picture stands in front.
    """
    pictures = _pictures(record, location)
    asked = field(record, _first_with_value(record, *QUESTION), str, location).strip()
    name = _first_with_value(record, *ANSWER)
    said, *others = (words.strip() for words in texts(present(record, name, location), name, location))
    reply = Message("assistant", (said,), alternatives=tuple(others))
    if re.search(IMAGE_MARK, said, re.IGNORECASE):
        raise BadSample(f"{location}: {IMAGE_MARK} inside an answer; pictures belong to the human")
    _refuse_unshown(record, asked, said, location)
    hint = record.get("hint")
    parts = talks.marked_parts(f"{hint}\n{asked}" if isinstance(hint, str) and hint.strip() else asked)
    if (slots := parts.count(None)) and slots != len(pictures):
        raise BadSample(f"{location}: {slots} {IMAGE_MARK} in the text but {len(pictures)} images")
    if None in parts[1:]:  # the picture stands among the words
        waiting = iter(pictures)
        placed = [next(waiting) if part is None else part for part in parts]
        messages = [Message("user", (*placed, *_options(record)))]
    else:
        words = "".join(part for part in (*parts, *_options(record)) if part is not None)
        messages = [Message("user", tuple(pictures)), Message("user", (words,))]
    return talks.assembled(record, [*messages, reply], None, location, None)


def text(record: Any, location: Location) -> Conversation:
    """A document, for a language model alone: every word of it is supervised."""
    words = record if isinstance(record, str) else field(record, "text", str, location)
    return Conversation((Message("assistant", (words.strip(),)),), None, PLAIN, str(location))


def owl(record: Any, location: Location) -> Conversation:
    """The original's prompt string in `text`, its pictures in `image`."""
    words, images = field(record, "text", str, location), talks.pictures_of(record, location)
    words = re.sub(r"^AI:\s*\Z", "AI: ", words, flags=re.MULTILINE)  # a question whose last space somebody stripped
    if mark := re.search(r"^(Human|AI):(?=\S)", words, re.MULTILINE):
        raise BadSample(f"{location}: {mark[0]!r} begins a line without a space after it; expected '{mark[0]} '")
    try:
        talk = Conversation.from_prompt(words, images if IMAGE_MARK in words else [], str(location))
    except UserError as error:
        raise BadSample(str(error)) from None
    messages = list(talk.messages)
    while messages and messages[0].role == "assistant":
        messages.pop(0)
    if images and IMAGE_MARK not in words:
        messages = talks.in_front(messages, images)
    return replace(talk, messages=tuple(messages))


CONVERTERS: Mapping[str, Convert] = {
    "captions": captions,
    "questions": questions,
    "llava": talks.conversations,
    "chat": talks.chat,
    "sharegpt": talks.conversations,
    "alpaca": talks.alpaca,
    "swift": talks.swift,
    "cauldron": talks.cauldron,
    "baize": talks.baize,
    "owl": owl,
    "text": text,
}
# What records are made of; a table's other columns are not read.
_TURNS = ("messages", "conversations", "texts", "instruction", "query")
_OTHERS = ("input", "output", "system", "system_prompt", "history", "url", "URL")
FIELDS = frozenset(
    (
        *IMAGE,
        *CAPTION,
        *QUESTION,
        *ANSWER,
        *_TURNS,
        *_OTHERS,
        *_UNSEEN,
        *_PREFERENCES,
        *_ELSEWHERE,
        *_CHOICES,
        "hint",
        *_OPTIONS,
    )
)
# What an exam reads besides: what a question is called, and the rows of its tables, the broadest label first.
ID_FIELDS = ("question_id", "id")
ABILITY_FIELDS = ("ability", "category", "answer_type", "question_type", "type")
READ_FIELDS = FIELDS.union(ID_FIELDS, ABILITY_FIELDS)

_MARKS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "chat": lambda record: "messages" in record,
    "llava": lambda record: "conversations" in record and ("image" in record or "images" in record),
    "sharegpt": lambda record: "conversations" in record,
    "cauldron": lambda record: "texts" in record and "images" in record,
    "alpaca": lambda record: "instruction" in record and "output" in record,
    "swift": lambda record: "query" in record and "response" in record,
    "baize": lambda record: "[|Human|]" in str(record.get("input")),
    "owl": lambda record: bool(re.search(r"<image>|^Human: |^AI: ", str(record.get("text", "")), re.MULTILINE)),
    "questions": lambda record: bool({*IMAGE} & {*record} and {*QUESTION} & {*record} and {*ANSWER} & {*record}),
    "captions": lambda record: bool({*IMAGE} & {*record} and {*CAPTION} & {*record}),
    "text": lambda record: "text" in record,
}


# What is asked in records without an answer: `owl answer` reads them, and where they are trained on the error says what lacks.
_UNANSWERED = {"questions": QUESTION, "alpaca": ("instruction",)}


# Formats that the words in a record tell, and not the names of its fields alone.
_BY_WORDS = ("baize", "owl")


def recognise(record: Any, location: object, by_words: bool = True) -> str:
    """The name of the format of a record, by its fields. Raises BadSample that lists them where none fits."""
    if not isinstance(record, Mapping):
        raise BadSample(f"{location}: {describe(record)}; expected an object")
    for name, matches in _MARKS.items():
        if (by_words or name not in _BY_WORDS) and matches(record):
            return name
    if any(str(name).lower() == "url" for name in record) and not {*IMAGE} & {*record}:
        raise BadSample(
            f"{location}: addresses of pictures, not pictures; fetch them with img2dataset and read webdataset:FOLDER"
        )
    if {*IMAGE} & {*record} and {*record} <= {*IMAGE, *ID_FIELDS}:  # pictures alone, which `owl answer --question` asks about
        return "captions"
    for name, asked in _UNANSWERED.items():
        if {*asked} & {*record}:
            return name
    raise BadSample(f"{location}: no known format has the fields {field_names(record)}")


def by_fields(record: Any, location: Location) -> Conversation:
    """A record of whichever format its fields say."""
    return CONVERTERS[recognise(record, location)](record, location)


def by_field_names(record: Any, location: Location) -> Conversation:
    """The same by the names of its fields alone, whatever the words in them."""
    return CONVERTERS[recognise(record, location, by_words=False)](record, location)


# Formats that a file may mix: their fields alone tell them apart, whatever the words in them.
_MIXABLE = ("chat", "llava", "sharegpt", "cauldron", "alpaca", "swift", "questions", "captions")


class Mixed:
    """Records of one format, with others among them: talks without pictures among those about them, for example."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, record: Any, location: Location) -> Conversation:
        """A record of this format if it has its fields, else of the one that its own fields say."""
        name = self.name
        if isinstance(record, Mapping) and name in _MIXABLE and not _MARKS[name](record):
            name = next((other for other in _MIXABLE if _MARKS[other](record)), name)
        return CONVERTERS[name](record, location)


def like(name: str) -> Convert:
    """How rows are read whose first is of this format: words in a row of text or of a caption make it no talk."""
    return by_fields if name in _BY_WORDS else by_field_names


def refuse_unseen(record: Any, location: Location) -> None:
    """Raise BadSample where a record holds what an owl cannot see: it would be learned as if it were not there."""
    if not isinstance(record, Mapping):
        return
    for name in (*_UNSEEN, *_PREFERENCES):
        if talks.has_value(record, name):
            raise BadSample(f"{location}: has {name!r}; {_SENSES if name in _UNSEEN else 'preferences are not learned'}")
    if {*_TURNS} & {*record} and not any(talks.has_value(record, name) for name in IMAGE):
        for name in _ELSEWHERE:
            if talks.has_value(record, name):
                raise BadSample(f"{location}: has {name!r}; expected pictures in 'image' or 'images'")
    if record.get("label") is False and ("messages" in record or "conversations" in record):
        raise BadSample(f"{location}: its label is false, a talk that is not to be learned; preferences are not learned")


def checked(conversation: Conversation, location: Location) -> Conversation:
    """The conversation, if there is an answer in it to learn, in characters that a tokenizer can read."""
    for message in (Message("user", (conversation.system or "",)), *conversation.messages):
        words = "".join((message.text, *message.alternatives))
        if half := re.search("[\ud800-\udfff]", words):
            raise BadSample(f"{location}: half a character, \\u{ord(half[0]):04x}, in {words[:40]!a}")
        if message.role == "user" and (mark := _OTHER_MARK.search(words)):
            raise BadSample(f"{location}: {mark[0].strip()} in the text; {_SENSES}")
    supervised = (message for message in conversation.messages if message.role == "assistant" and message.supervised)
    if not any(message.text.strip() for message in supervised):
        raise BadSample(f"{location}: {_NOTHING_TO_LEARN if conversation.style is PLAIN else _NO_ANSWER}")
    return conversation


# A mark for what an owl has no sense for, where a mark for a picture would stand; inside a sentence it is a word.
_OTHER_MARK = re.compile(r"^\s*<(video|audio)>|<(video|audio)>\s*$")
_SENSES = "an owl sees pictures and reads words, nothing else"
_NOTHING_TO_LEARN = "no words to learn; the text is empty"
_NO_ANSWER = "no answer to learn; expected at least one with words in it"


def _pictures(record: Any, location: Location) -> list[Picture]:
    """The pictures of a record that must have one, under any of the names for it."""
    value = present(record, _first_with_value(record, *IMAGE), location)
    files = value if isinstance(value, list) and value else [value]
    return [Picture(location.picture(file)) for file in files]


def _options(record: Mapping[str, Any]) -> list[str]:
    """The lines that offer answers to choose from, in columns named `A`, `B` and so on."""
    given = [(letter, record.get(letter)) for letter in _OPTIONS]
    return [f"\n{letter}. {words}" for letter, words in given if not is_missing(words) and words != ""]


def _refuse_unshown(record: Mapping[str, Any], asked: str, said: str, location: Location) -> None:
    """Raise BadSample where an answer is the letter or the number of an option that nobody would see."""
    name = _first_with_value(record, *_CHOICES)
    offered = record.get(name)
    shown = [str(one) for one in offered] if isinstance(offered, list) else []
    if not talks.has_value(record, name) or said in shown or not re.fullmatch(r"\(?[A-Za-z]\)?\.?|\d+", said):
        return
    if not _options(record) and not (shown and all(one in asked for one in shown)):
        raise BadSample(
            f"{location}: its answer, {said!r}, is one of its {name!r}, which are not shown; expected options in fields 'A', "
            "'B' and so on, and a letter as the answer"
        )


def _first_with_value(record: Any, *names: str) -> str:
    """The first of these names under which the record has a value; else the first that it has, or the first of all."""
    held = [name for name in names if isinstance(record, Mapping) and name in record]
    return next((name for name in held if talks.has_value(record, name)), held[0] if held else names[0])
