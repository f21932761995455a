"""The door: data comes in through `read("FORMAT:PATH")` and comes out as conversations, one by one."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mplug_owl.data.sources import coco, folder, formats, hub, owleval, parquet, shards
from mplug_owl.data.sources.files import is_remote, short_name, skip_broken
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.location import Location, shortened
from mplug_owl.data.sources.recognise import UnrecognisedError, recognise
from mplug_owl.data.sources.records import Records, ending, read_blocks
from mplug_owl.data.sources.source import FileSource, Source, read_record
from mplug_owl.data.sources.table import read_table
from mplug_owl.errors import BadSample, UserError, WriteError
from mplug_owl.model.images import expand_home
from mplug_owl.scenes.lessons import open_lessons


def read(spec: str, image_root: str | Path | None = None) -> Source:
    """Open `FORMAT:PATH`, or `PATH` alone, whose format is then recognised from what it holds.

    Records are read when they are asked for, and raise BadSample then.

    Args:
        spec: A format's name and a path, folder, pattern or address, such as `chat:talks.jsonl`.
        image_root: Pictures that records name are looked for below it first, then beside the data.

    Raises:
        UserError: There is no such file or format. The message names the file, its line and what would be right.

    Example:
        >>> read("scenes:captions")[0].answers  # doctest: +SKIP
        ('There is a large black star in the middle left, a large green star in the centre ...',)
    """
    root = expand_home(image_root) if image_root is not None else None
    try:
        if root is not None and not root.is_dir():
            raise UserError(f"{root}: no such folder; --image-root names the folder where pictures are")
        return _opened(spec, root)
    except BadSample as error:  # in a file that is read as a whole
        raise UserError(str(error)) from None
    except WriteError:
        raise
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise UserError(f"{shortened(spec)}: {error.strerror or error}") from None


def _opened(spec: str, root: Path | None) -> Source:
    name, _, rest = spec.partition(":")
    if name in FORMATS and not rest:
        raise UserError(f"{spec}: no path after the format; expected {name}:PATH")
    if not spec:
        raise UserError("no data is named; expected FORMAT:PATH")
    if name not in FORMATS:
        if rest and re.fullmatch(r"\w\w+", name) and not is_remote(spec) and not expand_home(spec).exists():
            raise UserError(f"{spec}: no format is called {name!r}; there are {', '.join(FORMATS)}")
        name, rest = _recognised(spec), spec
    return FORMATS[name].read(rest, root)


Read = Callable[[str, Path | None], Source]


class Format(NamedTuple):
    """How to read one layout, and a line about it for `owl inspect --formats`."""

    read: Read
    description: str


def _recognised(spec: str) -> str:
    try:
        return recognise(spec)
    except UnrecognisedError as error:
        names = ", ".join(FORMATS)
        raise UserError(f"{error}; name the format in front of the path, FORMAT:PATH, with one of {names}") from None


def _records(spec: str) -> Records:
    """The records of a file that has them one by one, in whichever container."""
    plain, _ = skip_broken(spec)
    kind = ending(short_name(plain))
    if is_remote(spec) and kind in (".json", ".jsonl", ".csv", ".tsv", ".txt"):
        raise UserError(f"{spec}: from addresses only .tar and .parquet files are read; fetch it and give its path")
    path = expand_home(plain)
    if kind == ".parquet" or is_remote(spec) or path.is_dir():
        return parquet.open_rows(spec)
    return read_table(path) if kind in (".csv", ".tsv") else read_json(path)


def _text_records(spec: str) -> Records:
    plain, _ = skip_broken(spec)
    rows = ending(plain) in (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet") or expand_home(plain).is_dir()
    blocks = not is_remote(spec) and not rows
    return read_blocks(expand_home(spec)) if blocks else _records(spec)


def _named(name: str, records: Callable[[str], Records] = _records) -> Read:
    """Records of one format, in any container; others among them are read by their fields."""
    return lambda spec, root: FileSource(f"{name}:{spec}", records(spec), formats.Mixed(name), root)


def _any(name: str, records: Callable[[str], Records]) -> Read:
    """A container whose records say by their fields what they are. The first one has to be known, unless it is damaged."""

    def read(spec: str, root: Path | None) -> Source:
        found = records(spec)
        location = Location(found.folder, found.location(0), root)
        convert: formats.Convert = formats.by_fields
        try:
            first = read_record(found, 0, location)
        except BadSample:  # it will say so again when it is its turn
            pass
        else:
            convert = formats.like(formats.recognise(first, location))
        return FileSource(f"{name}:{spec}", found, convert, root)

    return read


def _coco(spec: str, root: Path | None) -> Source:
    return FileSource(f"coco:{spec}", coco.join(expand_home(spec), root), formats.captions, root)


def _folder(spec: str, root: Path | None) -> Source:
    return FileSource(f"folder:{spec}", folder.open_folder(expand_home(spec)), formats.captions, root)


def _owleval(spec: str, root: Path | None) -> Source:
    return FileSource(f"owleval:{spec}", owleval.join(expand_home(spec)), owleval.conversation, root)


def _webdataset(spec: str, root: Path | None) -> Source:
    return FileSource(f"webdataset:{spec}", shards.open_shards(spec), formats.by_fields, root)


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
        "sharegpt": Format(_named("sharegpt"), "Vicuna's JSON: conversations of human and gpt"),
        "alpaca": Format(_named("alpaca"), "Alpaca's JSON: instruction, input and output, with images or without"),
        "swift": Format(_named("swift"), "ms-swift's JSON: query and response, with images, history and system or without"),
        "cauldron": Format(_named("cauldron"), "the_cauldron's rows: images, and texts of user and assistant"),
        "baize": Format(_named("baize"), "Baize's JSON: input with [|Human|] and [|AI|] in it"),
        "chat": Format(_named("chat"), "messages of role and content in JSON, JSON lines or parquet"),
        "owl": Format(_named("owl"), "the original's JSON lines: image, and text with its role marks"),
        "owleval": Format(_owleval, "OwlEval's folder, or a file of answers to its questions"),
        "scenes": Format(
            lambda spec, root: open_lessons(spec),
            "the drawn world, drawn when read: captions, reading, spelled, chats, text, lookups, or open:FILE.jsonl",
        ),
        "text": Format(_named("text", _text_records), "documents set apart by blank lines, or records with text"),
    }
)
