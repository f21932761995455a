"""Your own questions: every data format that holds answers is an exam too."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mplug_owl.conversation import IMAGE_MARK, PLAIN, Conversation, ImageSource, Message, Picture
from mplug_owl.data.sources import FORMATS, Source, read
from mplug_owl.data.sources.files import say_once
from mplug_owl.data.sources.formats import ABILITY_FIELDS, ID_FIELDS
from mplug_owl.data.sources.source import FileSource
from mplug_owl.errors import BadSample, UserError
from mplug_owl.eval import graders
from mplug_owl.eval.grade import Grader
from mplug_owl.eval.statistics import OVERALL
from mplug_owl.eval.task import Condition, Question
from mplug_owl.model.images import open_image

# So many questions at least say which metric fits, however few are asked.
SURVEYED = 200
# How a user's two messages in a row are joined: each turn of an exam is one message.
_LINE = "\n"


@dataclass(frozen=True)
class FromData:
    """The questions of a data source: each answer in it is a target, asked after the model's own answers to the turns before.

    A record of several answers becomes as many questions. Other wordings of an answer are accepted too. Records that cannot be
    read are not asked; how many there are is said. The metric is chosen by the data where none is named.

    Args:
        name: The source, `FORMAT:PATH`.
        image_root: Pictures that records name are looked for below it first, then beside the data.

    Raises:
        UserError: There is no such source, or nothing in it is a question with an answer.
    """

    name: str
    image_root: Path | None = None

    @property
    def conditions(self) -> Sequence[Condition]:
        """All questions as they are, with their pictures."""
        return (Condition("all", "picture", "as asked", self.name),)

    @cached_property
    def grader(self) -> Grader:
        """The metric that fits the questions that were read; which one, and why, is said."""
        self._questions.first(SURVEYED)
        name, reason = graders.default(self._questions.found)
        say_once(f"{self.name}: graded by {name} ({reason}); --metric names another")
        return graders.find(name)

    def questions(self, split: str, count: int | None = None, seed: int = 0) -> list[Question]:
        """The first `count` questions in the order of the data. Nothing is drawn, so `seed` changes nothing."""
        found = self._questions.first(count)
        if bad := self._questions.bad:
            many = f"{len(bad)} records cannot be read and are" if len(bad) > 1 else "1 record cannot be read and is"
            say_once(f"{self.name}: {many} not asked: {bad[0]}" + " ..." * (len(bad) > 1))
        if not found:
            raise UserError(f"{self.name}: no question with an answer in it" + (f"; the first record: {bad[0]}" if bad else ""))
        return found

    @cached_property
    def _questions(self) -> "_Questions":
        if self.image_root is not None and not self.image_root.is_dir():
            raise UserError(f"{self.image_root}: no such folder; --data names the folder where pictures are")
        return _Questions(read(self.name, self.image_root))


def is_source(name: str) -> bool:
    """Whether a task's name is a data source: FORMAT:PATH, or a path that is there."""
    return (name.partition(":")[0] in FORMATS and ":" in name) or Path(name).expanduser().exists()


class _Questions:
    """The questions of a source, read as far as they are asked for, and why records were left out."""

    def __init__(self, source: Source) -> None:
        self.found: list[Question] = []
        self.bad: list[str] = []
        self._ids: set[str] = set()
        self._systems: dict[str, str | None] = {}
        self._opened: set[str] = set()
        self._more = self._read(source)

    def first(self, count: int | None) -> list[Question]:
        """The first `count` questions, all where None."""
        while count is None or len(self.found) < count:
            question = next(self._more, None)
            if question is None:
                break
            self.found.append(question)
        return self.found[:count]

    def _read(self, source: Source) -> Iterator[Question]:
        file = source if isinstance(source, FileSource) else None
        folders = [folder for folder in (file.image_root, file.records.folder) if folder] if file else []
        for index in range(len(source)):
            try:
                conversation = source[index]
                names = [_name(picture.source, folders) for picture in conversation.pictures]
                for name, picture in zip(names, conversation.pictures, strict=True):
                    if name not in self._opened:  # found out now, and not when half of the exam is done
                        open_image(picture.source, f"{conversation.name}: {name}")
                        self._opened.add(name)
                record = file.records[index] if file else None
                asked = _asked(conversation, record if isinstance(record, Mapping) else {}, str(index + 1), names)
            except BadSample as error:
                self.bad.append(str(error).replace("--image-root", "--data"))
            else:
                yield from (self._unlike_others(question, index) for question in asked)

    def _unlike_others(self, question: Question, index: int) -> Question:
        """The question under an id that no other has, and a picture's name that no other system sentence has."""
        identity = question.id if question.id not in self._ids else f"{question.id}, record {index + 1}"
        self._ids.add(identity)
        image = question.image
        if self._systems.setdefault(image, question.system) != question.system:  # other answers lead up to it
            image = f"{image}, system {_digest((question.system or '').encode())}"
        return replace(question, id=identity, image=image)


def _asked(conversation: Conversation, record: Mapping[str, Any], number: str, pictures: Sequence[str]) -> list[Question]:
    """A question for each supervised answer of a conversation. Raises BadSample where there is nothing to ask."""
    if conversation.style == PLAIN:
        raise BadSample(f"{conversation.name}: a document; expected something that is asked, and an answer")
    turns = _turns(conversation)
    first = next(iter(conversation.pictures), None)
    graded = [turn for turn, (_, reply) in enumerate(turns) if reply.supervised and reply.text.strip()]
    identity = _first_text(record, ID_FIELDS) or number
    labels = [label for name in ABILITY_FIELDS if (label := _label(record.get(name)))]
    # What a user says in words alone has no picture to share: then it is the record whose turns belong with each other.
    image = " + ".join(pictures) or f"record {identity}"
    people = _people(record) if len(turns) == 1 else ()
    questions = []
    for turn in graded:
        reply = turns[turn][1]
        target, *others = people or (reply.text.strip(), *reply.alternatives)
        earlier = [(_words(parts, not before), answer.text.strip()) for before, (parts, answer) in enumerate(turns[:turn])]
        questions.append(
            Question(
                f"{identity}.{turn + 1}" if len(graded) > 1 else identity,
                labels[0] if labels else OVERALL,
                labels[1] if len(labels) > 1 else "",
                (*earlier, (_words(turns[turn][0], not turn), target)),
                partial(open_image, first.source) if first else None,
                image=image,
                references=tuple(others),
                parts=tuple(parts for parts, _ in turns[: turn + 1]),
                system=conversation.system,
            )
        )
    return questions


def _turns(conversation: Conversation) -> list[tuple[tuple[str | Picture, ...], Message]]:
    """What is asked and what is answered, turn by turn. Raises BadSample where two answers follow each other."""
    turns: list[tuple[tuple[str | Picture, ...], Message]] = []
    asked: list[str | Picture] = []
    for message in conversation.messages:
        if message.role == "user":
            after_words = asked and isinstance(asked[-1], str) and asked[-1] != ""
            begins_with_words = message.parts and isinstance(message.parts[0], str)
            asked += [*([_LINE] if after_words and begins_with_words else []), *message.parts]
        elif not asked:
            raise BadSample(f"{conversation.name}: two answers in a row; expected a question before each")
        else:
            turns.append((tuple(asked), message))
            asked = []
    return turns


def _words(parts: Sequence[str | Picture], first: bool) -> str:
    """What is said, with a mark where a picture stands, but for those in front of everything."""
    words, leading = "", first
    for part in parts:
        leading = leading and (isinstance(part, Picture) or part == "")
        words += part if isinstance(part, str) else "" if leading else IMAGE_MARK
    return words.strip()


def _people(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What several people answered, as VQA's records have it in `answers`: the most frequent first, each as often as given."""
    given = record.get("answers")
    if not isinstance(given, list) or len(given) < 2:
        return ()
    answers = [one.get("answer") if isinstance(one, Mapping) else one for one in given]
    known = [one.strip() for one in answers if isinstance(one, str) and one.strip()]
    return tuple(sorted(known, key=lambda one: -known.count(one)))


def _name(source: ImageSource, folders: Sequence[Path]) -> str:
    """A picture's name, the same wherever the data stands: its path from there, or a digest of what it is."""
    if isinstance(source, str | Path):
        path = Path(source)
        inside = next((folder for folder in folders if path.is_relative_to(folder)), None)
        return (path.relative_to(inside) if inside else path).as_posix()
    return f"picture {_digest(source if isinstance(source, bytes) else source.tobytes())}"


def _digest(held: bytes) -> str:
    return hashlib.sha256(held).hexdigest()[:12]


def _label(value: object) -> str:
    """A label of a record: text or a number, or the first of a list."""
    if isinstance(value, list) and value:
        value = value[0]
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _first_text(record: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((label for name in names if (label := _label(record.get(name)))), "")
