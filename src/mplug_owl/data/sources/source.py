"""Sources: data comes in through one door, `read("FORMAT:PATH")`, and comes out as conversations, one by one."""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from PIL import Image

from mplug_owl.conversation import Conversation, ImageSource
from mplug_owl.data.sources import coco, folder, formats, hub, owleval, parquet, shards
from mplug_owl.data.sources.files import is_pattern, is_remote, short_name
from mplug_owl.data.sources.records import Records, check_file, read_blocks, read_json, read_table
from mplug_owl.model.images import FORMATS as PICTURE_FORMATS
from mplug_owl.model.images import MAX_PIXELS, open_image
from mplug_owl.scenes.lessons import open_lessons

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
        return FORMATS[name].read(rest)
    if not spec:
        raise ValueError("no data is named; expected FORMAT:PATH")
    if rest and re.fullmatch(r"\w\w+", name) and not is_remote(spec) and not Path(spec).exists():
        raise ValueError(f"{spec}: no format is called {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[recognise(spec)].read(spec)


def check(source: Source, decode: bool | None = None, indices: Iterable[int] | None = None) -> list[str]:
    """Read every conversation, or those at `indices`, and the header of every picture; say all that is wrong, one line each.

    `decode` reads each picture to its end as well, some milliseconds a piece, and so finds the ones cut short. When it
    isn't said, sources of up to `DECODED` conversations are read so.
    """
    decode = len(source) <= DECODED if decode is None else decode
    problems: list[str] = []
    for index in range(len(source)) if indices is None else indices:
        try:
            conversation = source[index]
        except ValueError as error:
            problems.append(str(error))
            continue
        for picture in conversation.pictures:
            # A picture out of a larger file has no name but the conversation's.
            named = isinstance(picture.source, (str, Path))
            look = open_image if decode else picture_size
            try:
                look(picture.source, str(picture.source) if named else conversation.name)
            except ValueError as error:
                problems.append(f"{conversation.name}: {error}" if named else str(error))
    return problems


def picture_size(source: ImageSource, name: str = "") -> tuple[int, int]:
    """Width and height by the picture's header alone. Raises ValueError where there is none to read."""
    if isinstance(source, Image.Image):
        return source.size
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
    except Exception:  # open_image knows the words for what is wrong
        width, height = open_image(source, name).size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name or 'picture'}: {width} x {height} is more than the {MAX_PIXELS:,} pixels allowed; make it smaller"
        )
    return width, height


@dataclass(frozen=True)
class FileSource:
    """The records of one file or many, each turned into a conversation by its format when it is asked for."""

    name: str
    records: Records
    convert: Callable[[Any, formats.Location], Conversation]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Conversation:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: no conversation {index} among {len(self)}")
        index %= len(self)
        location = formats.Location(self.records.folder, self.records.location(index))
        return formats.checked(self.convert(self.records[index], location), location)

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))


class Format(NamedTuple):
    """How to read one layout, and a line about it for `--help`."""

    read: Callable[[str], Source]
    description: str


def recognise(spec: str) -> str:
    """The name of the format of a file, a folder or an address, by its name's ending and its first record."""
    ending = Path(short_name(spec)).suffix.lower()
    if ending in (".csv", ".tsv") and Path(spec).expanduser().is_file():
        return "questions" if _asks(Path(spec).expanduser()) else "captions"
    if ending in _ENDINGS and (is_remote(spec) or is_pattern(spec) or not Path(spec).expanduser().is_dir()):
        return _ENDINGS[ending]
    if is_remote(spec):
        raise ValueError(f"{spec}: an address of neither .tar nor .parquet files; {_NAME_IT}")
    path = Path(spec).expanduser()
    if path.is_dir():
        return _recognised_folder(path)
    check_file(path)
    if coco.is_coco(path):
        return "coco"
    records = read_json(path)
    try:
        first = records[0]
        return "owleval" if owleval.is_question(first) else formats.recognise(first, records.location(0))
    except ValueError as error:
        if ending in (".json", ".jsonl") and "no known format" not in str(error):
            raise
        raise ValueError(f"{error}; {_NAME_IT}") from None


def _asks(table: Path) -> bool:
    """Whether a table's first record is a question, not a caption. A broken one is told about when it is read."""
    try:
        return formats.recognise(read_table(table)[0], table) == "questions"
    except (ValueError, IndexError):
        return False


_ENDINGS = {".tar": "webdataset", ".parquet": "parquet", ".txt": "text", ".csv": "captions", ".tsv": "captions"}


def _recognised_folder(path: Path) -> str:
    kinds: Mapping[str, Callable[[Path], bool]] = {
        "owleval": owleval.is_folder,
        "hub": hub.is_saved,
        "webdataset": lambda path: any(path.glob("*.tar")),
        "parquet": lambda path: any(path.glob("*.parquet")),
        "folder": folder.is_folder,
    }
    for name, matches in kinds.items():
        if matches(path):
            return name
    raise ValueError(
        f"{path}: a folder; expected a file, or a folder of pictures, shards (.tar) or .parquet, or OwlEval's; {_NAME_IT}"
    )


def _records(spec: str) -> Records:
    """The records of a file that has them one by one, in whichever container."""
    ending = Path(short_name(spec)).suffix.lower()
    if is_remote(spec) and ending in (".json", ".jsonl", ".csv", ".tsv", ".txt"):
        raise ValueError(f"{spec}: from addresses only .tar and .parquet files are read; fetch it and give its path")
    if ending == ".parquet" or is_remote(spec) or Path(spec).expanduser().is_dir():
        return parquet.open_rows(spec)
    path = Path(spec).expanduser()
    return read_table(path) if ending in (".csv", ".tsv") else read_json(path)


def _named(name: str) -> Callable[[str], Source]:
    """Records of one format, in any container."""
    return lambda spec: FileSource(f"{name}:{spec}", _records(spec), formats.CONVERTERS[name])


def _any(name: str, records: Callable[[str], Records]) -> Callable[[str], Source]:
    """A container whose records say by their fields what they are. The first one has to be known, unless it is damaged."""

    def read(spec: str) -> Source:
        found = records(spec)
        try:
            first = found[0]
        except ValueError:  # it will say so again when it is its turn
            pass
        else:
            formats.recognise(first, found.location(0))
        return FileSource(f"{name}:{spec}", found, formats.by_fields)

    return read


def _text(spec: str) -> Source:
    path = Path(spec).expanduser()
    blocks = not is_remote(spec) and path.suffix.lower() not in (".json", ".jsonl", ".parquet")
    records = read_blocks(path) if blocks else _records(spec)
    return FileSource(f"text:{spec}", records, formats.text)


def _webdataset(spec: str) -> Source:
    return FileSource(f"webdataset:{spec}", shards.open_shards(spec), formats.by_fields)


def _coco(spec: str) -> Source:
    return FileSource(f"coco:{spec}", coco.join(Path(spec).expanduser()), formats.captions)


def _folder(spec: str) -> Source:
    return FileSource(f"folder:{spec}", folder.open_folder(Path(spec).expanduser()), formats.captions)


def _owleval(spec: str) -> Source:
    return FileSource(f"owleval:{spec}", owleval.join(Path(spec).expanduser()), owleval.conversation)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "webdataset": Format(_webdataset, "img2dataset's shards: tar files of pictures with .txt or .json beside them"),
        "coco": Format(_coco, "COCO's captions: JSON of images and annotations"),
        "captions": Format(_named("captions"), "image and caption (or text) in JSON, JSON lines, CSV, TSV or parquet"),
        "questions": Format(_named("questions"), "image, question and answer in CSV, TSV, JSON, JSON lines or parquet"),
        "folder": Format(_folder, "pictures with a captions.csv or captions.jsonl, or each with a .txt of its name"),
        "parquet": Format(_any("parquet", parquet.open_rows), "rows whose columns are the fields of another format here"),
        "hub": Format(_any("hub", hub.open_hub), "a data set saved by Hugging Face's datasets, or its name on the hub"),
        "llava": Format(_named("llava"), "LLaVA's JSON: image, and conversations of human and gpt"),
        "sharegpt": Format(_named("sharegpt"), "Vicuna's JSON: conversations of human and gpt, words alone"),
        "alpaca": Format(_named("alpaca"), "Alpaca's JSON: instruction, input and output"),
        "baize": Format(_named("baize"), "Baize's JSON: input with [|Human|] and [|AI|] in it"),
        "chat": Format(_named("chat"), "messages of role and content in JSON, JSON lines or parquet"),
        "owl": Format(_named("owl"), "the original's JSON lines: image, and text with its role marks"),
        "owleval": Format(_owleval, "OwlEval's folder, or a file of answers to its questions"),
        "scenes": Format(open_lessons, "the drawn world's captions, chats or text, drawn when they are read"),
        "text": Format(_text, "documents set apart by blank lines, or records with text"),
    }
)
_NAME_IT = f"name the format in front of the path, FORMAT:PATH, with one of {', '.join(FORMATS)}"
