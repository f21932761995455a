"""Sources: data comes in through one door, `read("FORMAT:PATH")`, and comes out as conversations, one by one."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from PIL import Image

from mplug_owl.conversation import Conversation
from mplug_owl.data import formats, owleval
from mplug_owl.data.records import Records, describe, read_blocks, read_json, read_table
from mplug_owl.model.images import FORMATS as PICTURE_FORMATS
from mplug_owl.model.images import MAX_PIXELS, open_image

# About a minute's worth of photographs on one core.
DECODED = 5_000


class Source(Protocol):
    """Conversations that can be counted and read in any order. A damaged one raises ValueError that names its place."""

    @property
    def name(self) -> str:
        """What it was opened as, `FORMAT:PATH`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation: ...


def read(spec: str) -> Source:
    """Open `FORMAT:PATH`, or `PATH` alone, whose format is then recognised from what it holds.

    Records are read when asked for. Raises ValueError that names the file, its line and what would be right.
    """
    name, _, rest = spec.partition(":")
    if name in FORMATS and not rest:
        raise ValueError(f"{spec}: no path behind the format; expected {name}:PATH")
    if name in FORMATS:
        return FORMATS[name].read(Path(rest).expanduser())
    path = Path(spec).expanduser()
    if not spec:
        raise ValueError("no data is named; expected FORMAT:PATH")
    if rest and re.fullmatch(r"\w\w+", name) and not path.exists():
        raise ValueError(f"{spec}: no format is called {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[recognise(path)].read(path)


def check(source: Source, decode: bool | None = None) -> list[str]:
    """Read every conversation and the header of every picture; say all that is wrong, one line each.

    `decode` reads each picture to its end as well, some milliseconds a piece, and so finds the ones cut short. When it
    isn't said, sources of up to `DECODED` conversations are read so.
    """
    decode = len(source) <= DECODED if decode is None else decode
    problems: list[str] = []
    for index in range(len(source)):
        try:
            conversation = source[index]
        except ValueError as error:
            problems.append(str(error))
            continue
        for picture in conversation.pictures:
            try:
                if decode or not isinstance(picture.source, Path):
                    open_image(picture.source)
                else:
                    picture_size(picture.source)
            except ValueError as error:
                problems.append(f"{conversation.name}: {error}")
    return problems


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height by the file's header alone. Raises ValueError where there is none to read."""
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
    except Exception:  # open_image knows the words for what is wrong
        width, height = open_image(path).size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: {width} x {height} is more than the {MAX_PIXELS:,} pixels allowed; make it smaller")
    return width, height


@dataclass(frozen=True)
class FileSource:
    """The records of one file, each turned into a conversation by its format when it is asked for."""

    name: str
    records: Records
    convert: Callable[[Any, formats.Place], Conversation]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Conversation:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: no conversation {index} among {len(self)}")
        index %= len(self)
        place = formats.Place(self.records.path.parent, self.records.place(index))
        return formats.checked(self.convert(self.records[index], place), place)

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))


class Format(NamedTuple):
    """How to read one layout, and a line about it for `--help`."""

    read: Callable[[Path], Source]
    description: str


def recognise(path: Path) -> str:
    """The name of the format of a file or folder, by its name's ending and its first record."""
    if path.is_dir():
        if owleval.is_folder(path):
            return "owleval"
        raise ValueError(f"{path}: a folder; expected a file, or OwlEval's folder with questions.jsonl")
    if path.suffix.lower() in (".txt", ".csv", ".tsv"):
        return "text" if path.suffix.lower() == ".txt" else "captions"
    records = read_json(path)
    try:
        first = records[0]
    except ValueError as error:
        if path.suffix.lower() in (".json", ".jsonl"):
            raise
        raise ValueError(f"{error}; {_NAME_IT}") from None
    if not isinstance(first, Mapping):
        raise ValueError(f"{records.place(0)}: {describe(first)}; expected an object")
    for name, matches in _MARKS.items():
        if matches(first):
            return name
    raise ValueError(
        f"{records.place(0)}: no known format has the fields {', '.join(map(repr, first)) or '(none)'}; {_NAME_IT}"
    )


_MARKS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "chat": lambda record: "messages" in record,
    "llava": lambda record: "conversations" in record,
    "owleval": lambda record: "question_id" in record and "question" in record,
    "owl": lambda record: bool(re.search(r"<image>|^Human: |^AI: ", str(record.get("text", "")), re.MULTILINE)),
    "captions": lambda record: "image" in record and ("caption" in record or "text" in record),
    "text": lambda record: "text" in record,
}


def _json(name: str, convert: Callable[[Any, formats.Place], Conversation]) -> Callable[[Path], Source]:
    return lambda path: FileSource(f"{name}:{path}", read_json(path), convert)


def _captions(path: Path) -> Source:
    records = read_table(path) if path.suffix.lower() in (".csv", ".tsv") else read_json(path)
    return FileSource(f"captions:{path}", records, formats.captions)


def _text(path: Path) -> Source:
    records = read_json(path) if path.suffix.lower() in (".json", ".jsonl") else read_blocks(path)
    return FileSource(f"text:{path}", records, formats.text)


def _owleval(path: Path) -> Source:
    return FileSource(f"owleval:{path}", owleval.join(path), owleval.conversation)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "captions": Format(_captions, "image and caption (or text) in JSON, JSON lines, CSV or TSV"),
        "llava": Format(_json("llava", formats.llava), "LLaVA's JSON: image, and conversations of human and gpt"),
        "owl": Format(_json("owl", formats.owl), "the original's JSON lines: image, and text with its role marks"),
        "chat": Format(_json("chat", formats.chat), "JSON or JSON lines with messages of role and content"),
        "owleval": Format(_owleval, "OwlEval's folder, or a file of answers to its questions"),
        "text": Format(_text, "documents set apart by blank lines, or JSON lines with text"),
    }
)
_NAME_IT = f"name the format in front of the path, FORMAT:PATH, with one of {', '.join(FORMATS)}"
