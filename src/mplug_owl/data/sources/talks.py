"""Talks: records of several turns, in the layouts of LLaVA, ShareGPT, chats, Alpaca, ms-swift, Baize and the_cauldron.

One rule for all of them: pictures take the positions that `<image>` marks, or stand in front where there is no mark; an answer
in front of the first question is not learned; whatever else a record holds is used or refused by its name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mplug_owl.conversation import (
    IMAGE_MARK,
    SYSTEM_PROMPT,
    UNUSED_IN_TURNS,
    Conversation,
    ImageSource,
    Message,
    Picture,
    is_learned,
)
from mplug_owl.data.sources.location import Location
from mplug_owl.data.sources.records import describe, field, is_missing, present, texts
from mplug_owl.errors import BadSample, UserError

# A picture: ours, an image folder's, and the endings that img2dataset and WebDataset make columns of.
IMAGE = ("image", "images", "file_name", "jpg", "jpeg", "png", "webp")
USERS = ("human", "user")
ASSISTANTS = ("gpt", "chatgpt", "assistant", "bing", "bard")
# A mark that stands for a picture wherever it is: at either end of what is asked, or on a line of its own.
_OUTER_MARK = re.compile(rf"^\s*{IMAGE_MARK}|{IMAGE_MARK}\s*$|^[ \t]*{IMAGE_MARK}[ \t]*$", re.MULTILINE)


def conversations(record: Any, location: Location) -> Conversation:
    """LLaVA's and ShareGPT's `conversations` of human and gpt in turn, with pictures in `image` or `images` or without."""
    system, messages = None, list[Message]()
    for index, turn in enumerate(field(record, "conversations", list, location)):
        where = f"{location}, conversations[{index}]"
        speaker = field(turn, "from", str, where).lower()
        for name in UNUSED_IN_TURNS:
            if has_value(turn, name):
                raise BadSample(f"{where}: has {name!r}; expected it in the record, not in a turn")
        if speaker == "system" and not index:
            system = field(turn, "value", str, where)
        elif speaker in ASSISTANTS:
            messages.append(answer(turn, "value", where))
        elif speaker in USERS:
            messages.append(Message("user", (field(turn, "value", str, where),)))
        else:
            raise BadSample(f"{where}: from {speaker!r:.60}; expected human or gpt")
    return assembled(record, messages, system, location, pictures_of(record, location))


def chat(record: Any, location: Location) -> Conversation:
    """`messages` in transformers' or OpenAI's convention; image parts that name no picture take theirs from `images`."""
    messages, files = field(record, "messages", list, location), _files(record, location)
    try:
        talk = Conversation.from_chat(_with_images(messages, files, location), str(location))
    except UserError as error:
        raise BadSample(str(error)) from None
    first = messages[0] if messages else {}
    system = (talk.system or "") if isinstance(first, Mapping) and first.get("role") in ("system", "developer") else None
    if not talk.pictures:
        return assembled(record, talk.messages, system, location, [location.picture(file) for file in files])
    if any(_OUTER_MARK.search(message.text) for message in talk.messages if message.role == "user"):
        raise BadSample(f"{location}: {IMAGE_MARK} in the text beside image parts; expected one of the two")

    def opened(part: str | Picture) -> str | Picture:
        return Picture(location.picture(part.source)) if isinstance(part, Picture) else part

    found = [replace(message, parts=tuple(map(opened, message.parts))) for message in talk.messages]
    return assembled(record, found, system, location, None)


def alpaca(record: Any, location: Location) -> Conversation:
    """`instruction`, `input` and `output`: the input, where there is one, on a line below the instruction."""
    asked = field(record, "instruction", str, location).strip()
    if not is_missing(record.get("input")):
        asked = f"{asked}\n{field(record, 'input', str, location)}".strip()
    messages = [Message("user", (asked,)), answer(record, "output", location)]
    return assembled(record, messages, None, location, pictures_of(record, location))


def swift(record: Any, location: Location) -> Conversation:
    """ms-swift's `query` and `response`."""
    asked = field(record, "query", str, location).strip()
    messages = [Message("user", (asked,)), answer(record, "response", location)]
    return assembled(record, messages, None, location, pictures_of(record, location))


def cauldron(record: Any, location: Location) -> Conversation:
    """the_cauldron's `texts` of user and assistant about its `images`."""
    messages = list[Message]()
    for index, turn in enumerate(field(record, "texts", list, location)):
        where = f"{location}, texts[{index}]"
        messages += [Message("user", (field(turn, "user", str, where),)), answer(turn, "assistant", where)]
    return assembled(record, messages, None, location, pictures_of(record, location))


def baize(record: Any, location: Location) -> Conversation:
    """`input`: a sentence, and below it turns that begin with `[|Human|]` and `[|AI|]`. The sentence becomes the original's."""
    _, *turns = re.split(r"(?:^|\n)\[\|(Human|AI)\|\]", field(record, "input", str, location))
    if not turns:
        raise BadSample(f"{location}: no turns; expected [|Human|] and [|AI|] at the start of lines")
    messages = [
        Message("user" if speaker == "Human" else "assistant", (words.strip(),))
        for speaker, words in zip(turns[::2], turns[1::2], strict=True)
    ]
    if messages[-1].role == "user":  # every talk ends where the next question would stand
        messages.pop()
    return assembled(record, messages, None, location, pictures_of(record, location))


def answer(record: Any, name: str, where: object) -> Message:
    """An answer, its other wordings where a list has several. One of weight 0 is not learned."""
    first, *others = texts(present(record, name, where), name, where)
    return Message("assistant", (first,), supervised=is_learned(record), alternatives=tuple(others))


def assembled(
    record: Mapping[str, Any],
    messages: Sequence[Message],
    system: str | None,
    location: Location,
    images: Sequence[ImageSource] | None,
) -> Conversation:
    """The conversation of a record: its `history` in front, its `system` above, its pictures where they belong.

    `system` is what the turns themselves say. `images` is None where the messages hold their pictures already.
    """
    messages = [*_history(record, location), *messages]
    while messages and messages[0].role == "assistant":  # parts of a longer talk begin so
        messages.pop(0)
    if images is not None:
        messages = in_their_positions(messages, images, location)
    for name in ("system", "system_prompt"):
        if has_value(record, name):
            found = field(record, name, str, location)
            if system is not None and system != found:
                raise BadSample(f"{location}: a system sentence in {name!r} and another one elsewhere; expected one")
            system = found
    return Conversation(tuple(messages), SYSTEM_PROMPT if system is None else system or None, name=str(location))


def in_their_positions(messages: Sequence[Message], images: Sequence[ImageSource], where: object) -> list[Message]:
    """The messages with pictures where `<image>` stands in what the user says, or in front of it all where nothing is marked.

    Raises BadSample where there are other numbers of marks and of pictures. Without pictures a mark inside a sentence is a
    word, as in talks about HTML.
    """
    asked = [message for message in messages if message.role == "user"]
    if not images:
        if marked := sum(len(_OUTER_MARK.findall(message.text)) for message in asked):
            raise BadSample(f"{where}: {marked} {IMAGE_MARK} in the text but 0 images")
        return list(messages)
    if any(re.search(IMAGE_MARK, message.text, re.IGNORECASE) for message in messages if message.role == "assistant"):
        raise BadSample(f"{where}: {IMAGE_MARK} inside an answer; pictures belong to the human")
    slots = sum(len(re.findall(IMAGE_MARK, message.text, re.IGNORECASE)) for message in asked)
    if not slots:
        return in_front(messages, images)
    if slots != len(images):
        raise BadSample(f"{where}: {slots} {IMAGE_MARK} in the text but {len(images)} images")
    waiting = [Picture(image) for image in images]
    return [message if message.role == "assistant" else _marked(message, waiting) for message in messages]


def in_front(messages: Sequence[Message], images: Sequence[ImageSource]) -> list[Message]:
    """The messages with pictures in front of the first thing that the user says."""
    pictures = tuple(Picture(image) for image in images)
    if not messages:
        return []
    first = messages[0]
    if first.role != "user":
        return [Message("user", pictures), *messages]
    return [replace(first, parts=(*pictures, *(part for part in first.parts if part != ""))), *messages[1:]]


def marked_parts(words: str) -> list[str | None]:
    """Words, and None where a picture stands; the line break between them is the mark's, not the words'.

    One picture after the words comes in front of them: LLaVA's own reader does so.
    """
    words = re.sub(IMAGE_MARK, IMAGE_MARK, words, flags=re.IGNORECASE)
    if words.count(IMAGE_MARK) == 1 and words.endswith(IMAGE_MARK):
        words = IMAGE_MARK + words.removesuffix(IMAGE_MARK).removesuffix("\n")
    parts: list[str | None] = []
    for index, stretch in enumerate(re.split(f"\n?{IMAGE_MARK}\n?", words)):
        parts += [None] * bool(index) + [stretch] * bool(stretch)
    return parts


def _marked(message: Message, waiting: list[Picture]) -> Message:
    """A message whose marks are pictures, taken from those waiting."""
    parts = marked_parts(message.text)
    return replace(message, parts=tuple(waiting.pop(0) if part is None else part for part in parts) or ("",))


def _history(record: Mapping[str, Any], location: Location) -> list[Message]:
    """The turns before, as LLaMA-Factory and ms-swift have them: pairs of a question and its answer."""
    if is_missing(record.get("history")):
        return []
    messages = list[Message]()
    for index, pair in enumerate(field(record, "history", list, location)):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(words, str) for words in pair):
            raise BadSample(f"{location}, history[{index}]: {describe(pair)}; expected a pair of question and answer")
        messages += [Message("user", (pair[0],)), Message("assistant", (pair[1],))]
    return messages


def pictures_of(record: Mapping[str, Any], location: Location) -> list[ImageSource]:
    """The pictures that a record names in `image` or `images`, else under another name of theirs."""
    return [location.picture(file) for file in _files(record, location)]


def _files(record: Mapping[str, Any], location: Location) -> list[Any]:
    """What a record says about pictures: nothing, one of them or a list."""
    lists = [_listed(record[name]) for name in IMAGE if has_value(record, name)]
    both = has_value(record, "image") and has_value(record, "images")
    if both and lists[0] != lists[1]:
        raise BadSample(f"{location}: has pictures in 'image' and others in 'images'; expected one of the two")
    return lists[0] if lists else []


def _listed(files: Any) -> list[Any]:
    return files if isinstance(files, list) else [files]


def _with_images(messages: Sequence[Any], images: Sequence[Any], where: object) -> list[Any]:
    """The messages with pictures in image parts that name none. Raises BadSample where there are more or fewer of them."""
    waiting, used, named, filled = iter(images), 0, 0, list[Any]()
    for message in messages:
        parts = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(parts, list):
            # Columns of a table give every part every field, most of them without a value.
            parts = [_valued(part) for part in parts]
            empty = [index for index, part in enumerate(parts) if part in ({"type": "image"}, {"type": "image_url"})]
            used += len(empty)
            shown = [part for part in parts if isinstance(part, Mapping) and part.get("type") in ("image", "image_url")]
            named += len(shown) - len(empty)
            for index, image in zip(empty, waiting, strict=False):
                parts[index] = {"type": "image", "image": image}
            message = {**message, "content": parts}
        elif isinstance(parts, (int, float)) and message.get("role") == "assistant":
            message = {**message, "content": texts(parts, "content", where)[0]}
        filled.append(message)
    if used != len(images) and (used or (named and images)):
        raise BadSample(f"{where}: {used} image parts in the messages but {len(images)} images")
    return filled


def has_value(record: Mapping[str, Any], name: str) -> bool:
    """Whether a field is there and holds something."""
    return not is_missing(record.get(name)) and record[name] not in ("", [], {}, "[]")


def _valued(part: Any) -> Any:
    return {name: value for name, value in part.items() if value is not None} if isinstance(part, Mapping) else part
