"""What is asked: each record of a data source, whether it has an answer or not, up to where a model answers.

What the user says last is the question. Answers before it stand as the data has them. One after it is not shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mplug_owl.conversation import OWL, PLAIN, SYSTEM_PROMPT, Conversation, Message
from mplug_owl.data.sources import FORMATS, Source, read
from mplug_owl.data.sources.formats import ANSWER, CAPTION, ID_FIELDS, IMAGE, QUESTION, checked, refuse_unseen
from mplug_owl.data.sources.recognise import recognise
from mplug_owl.data.sources.source import FileSource, in_turn, read_record
from mplug_owl.data.sources.talks import has_value
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import expand_home

# Where a format wants an answer and the data has none; it is cut off again.
_STAND_IN = Message("assistant", ("-",))
_TURNS = ("messages", "conversations", "texts")


@dataclass(frozen=True)
class Asked:
    """One record as it is asked.

    Args:
        record: Its number in the data, counted from 1.
        id: What the data calls it, else its number.
        conversation: All that the model is given.
    """

    record: int
    id: str
    conversation: Conversation

    @property
    def words(self) -> str:
        """What the user says last, pictures aside."""
        last: list[str] = []
        for message in reversed(self.conversation.messages):
            if message.role != "user":
                break
            last.append(message.text)
        return "\n".join(words for words in reversed(last) if words).strip()


class Questions:
    """The records of a source as questions, in any order.

    Args:
        spec: `FORMAT:PATH`, or `PATH` alone.
        image_root: Pictures that records name are looked for below it first, then beside the data.
        words: Asked about each record's pictures, in place of whatever the record says.
        limit: So many records at most, the first ones.

    Raises:
        UserError: There is no such data.
    """

    def __init__(self, spec: str, image_root: Path | None = None, words: str | None = None, limit: int | None = None) -> None:
        self.source, self.words = _opened(spec, image_root), words
        self.count = min(len(self.source), limit or len(self.source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Asked:
        """A record by its position, counted from 0. Raises BadSample where it cannot be asked."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        talk, identity = self._read(index)
        messages = _up_to_the_question(talk.messages)
        if self.words is not None:
            if not talk.pictures:
                raise BadSample(f"{talk.name}: has no picture; --question asks about pictures")
            messages = [Message("user", (*talk.pictures, self.words))]
        if not messages or messages[-1].role != "user":
            raise BadSample(f"{talk.name}: nothing is asked; expected the user's words or pictures before the last answer")
        asked = Asked(index + 1, identity or str(index + 1), replace(talk, messages=tuple(messages)))
        if not asked.words and not any(isinstance(part, str) is False for part in messages[-1].parts):
            raise BadSample(f"{talk.name}: the question is empty; expected words or a picture")
        return asked

    def in_turn(self, indices: Sequence[int]) -> Iterator[int]:
        """These positions, while what is in a store is fetched ahead."""
        return in_turn(self.source, indices)

    def _read(self, index: int) -> tuple[Conversation, str]:
        """A record as a conversation that ends with an answer, and what the data calls it."""
        source = self.source
        if not isinstance(source, FileSource):
            return source[index], ""
        location = source.location(index)
        record = read_record(source.records, index, location)
        refuse_unseen(record, location)
        talk = source.convert(_completed(record), location)
        if talk.style == PLAIN:  # a document is what is asked
            words = "".join(message.text for message in talk.messages)
            talk = replace(talk, messages=(Message("user", (words,)),), system=SYSTEM_PROMPT, style=OWL)
        talk = replace(talk, messages=(*_up_to_the_question(talk.messages), _STAND_IN))
        return checked(talk, location), _identity(record)


def _opened(spec: str, image_root: Path | None) -> Source:
    """The source. A table of questions with ids is one, and not OwlEval's, whose answers are other files."""
    path = expand_home(spec)
    named = spec.partition(":")[0] in FORMATS
    if not named and path.is_file() and recognise(spec) == "owleval":
        spec = f"questions:{spec}"
    elif spec.startswith("owleval:") or (path.is_dir() and recognise(spec) == "owleval"):
        raise UserError(f"{spec}: OwlEval's questions are asked by owl eval MODEL owleval --data FOLDER")
    return read(spec, image_root)


def _up_to_the_question(messages: Sequence[Message]) -> list[Message]:
    """The messages without the answers at their end, whether there is a word in them or not."""
    asked = list(messages)
    while asked and asked[-1].role == "assistant":
        asked.pop()
    return asked


def _completed(record: Any) -> Any:
    """A record with an answer where its format wants one; a question in words alone as a chat."""
    stand_in = _STAND_IN.text
    if not isinstance(record, Mapping):
        return record
    if has_value(record, "texts") and isinstance(turns := record["texts"], list) and isinstance(turns[-1], Mapping):
        return {**record, "texts": [*turns[:-1], {**turns[-1], "assistant": stand_in}]}
    if any(has_value(record, name) for name in _TURNS):
        return record
    if has_value(record, "instruction"):
        return record if has_value(record, "output") else {**record, "output": stand_in}
    asked = next((name for name in QUESTION if has_value(record, name)), None)
    if asked is None:
        return _completed_without_question(record)
    if any(has_value(record, name) for name in IMAGE):
        return record if any(has_value(record, name) for name in ANSWER) else {**record, "answer": stand_in}
    rest = {name: value for name, value in record.items() if name not in (*QUESTION, *ANSWER)}
    return {**rest, "messages": [{"role": "user", "content": record[asked]}]}


def _completed_without_question(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same of a record without a field for the question: Baize's turns, or pictures alone."""
    turns, mark, last = str(record.get("input") or "").rpartition("[|Human|]")
    if mark and last.strip() and "[|AI|]" not in last:
        return {**record, "input": f"{turns}{mark}{last}\n[|AI|]{_STAND_IN.text}"}
    if any(has_value(record, name) for name in IMAGE) and not any(has_value(record, name) for name in CAPTION):
        return {**record, "caption": _STAND_IN.text}
    return record


def _identity(record: Any) -> str:
    """What a record is called: the first of the fields that name it."""
    for name in ID_FIELDS if isinstance(record, Mapping) else ():
        value = record.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return ""
