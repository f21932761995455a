"""Records: what a file holds one by one, read when asked for, each with a location to name in an error."""

import gzip
import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mplug_owl.data.sources.files import cache_folder, find
from mplug_owl.data.sources.stretches import Split, Stretch, Stretches
from mplug_owl.errors import BadSample, UserError
from mplug_owl.writing import replacing

Kind = TypeVar("Kind")


class Records(Protocol):
    """The records of one file or many. Reading a damaged one raises BadSample, or what a decoder raises."""

    @property
    def folder(self) -> Path:
        """Where the pictures that records name are looked for."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def location(self, index: int) -> str:
        """Where record `index` stands, for people: `photos.jsonl, line 17`."""
        ...


class Listed:
    """Records that were made at once, from several files."""

    def __init__(self, path: Path, values: Sequence[Any]) -> None:
        self.path, self.folder, self.values = path, path.parent, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        return self.values[index]

    def location(self, index: int) -> str:
        """`answers.jsonl, record 17`."""
        return f"{self.path.name}, record {index + 1}"


class Indexed:
    """Records that stay in the file; only where each one starts and ends is known, 16 bytes a record (`Stretches`).

    `split` says where they are, `parse` makes a record of its text, and `kind` names the two for what is kept on disk. A `.gz`
    file is unpacked into the user's cache first.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        split: Split,
        parse: Callable[[str], Any],
        unit: str = "line",
        expected: str = "records",
    ) -> None:
        self.path, self.folder, self.parse, self.unit = path, path.parent, parse, unit
        self.unpacked = unpacked(path)
        self.stretches = Stretches(self.unpacked, kind, split)
        if not len(self.stretches):
            raise UserError(f"{path}: no records in the file; expected {expected}")

    def __len__(self) -> int:
        return len(self.stretches)

    def __getitem__(self, index: int) -> Any:
        start, end, _ = self.stretches[index]
        with self.unpacked.open("rb") as file:
            file.seek(start)
            raw = file.read(end - start)
        try:
            return self.parse(decode(raw))
        except BadSample as error:
            raise BadSample(f"{self.location(index)}: {error}") from None

    def location(self, index: int) -> str:
        """`photos.jsonl, line 17`."""
        return f"{self.path.name}, {self.unit} {self.stretches[index][2]}"


def read_blocks(path: Path) -> Records:
    """A text file whose documents are set apart by blank lines."""
    check_file(path)
    return Indexed(path, "blocks", _blocks, str.strip, expected="documents with blank lines between them")


def lines(path: Path) -> Iterator[Stretch]:
    """Every line that is not blank."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if line.strip():
                yield start, end, number


def _blocks(path: Path) -> Iterator[Stretch]:
    """Neighbouring lines together, as far as the next blank one."""
    block: Stretch | None = None
    last = 0
    for start, end, number in lines(path):
        if block and number == last + 1:
            block = block[0], end, block[2]
        else:
            if block:
                yield block
            block = start, end, number
        last = number
    if block:
        yield block


def ending(path: str | Path) -> str:
    """The ending that says what a file holds: `.jsonl` of `a.jsonl` and of `a.jsonl.gz`."""
    path = Path(path)
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def unpacked(path: Path) -> Path:
    """The file itself; of a `.gz` file what is in it, unpacked once into the user's cache, so that any record can be read."""
    if path.suffix.lower() != ".gz":
        return path
    (file,) = find(str(path), ".gz")
    copy = cache_folder() / file.key / path.stem
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        try:
            with replacing(copy) as part, gzip.open(path) as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a whole gzip file ({error}); fetch it anew") from None
    return copy


def check_file(path: Path) -> None:
    """Raise UserError unless there is a file with something in it."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: a folder; expected a file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes)")


def decode(raw: bytes) -> str:
    """Text from its bytes, with `\\n` for the line ends of Windows. Raises BadSample that tells which bytes are none."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadSample("UTF-16 text; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadSample(f"not UTF-8 text (byte {raw[error.start]:#04x} at {error.start})") from None


def parse_json(text: str) -> Any:
    """One JSON value. Raises BadSample that tells the column."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadSample(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise BadSample("JSON nested too deeply") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise BadSample(f"not JSON that can be read ({error})") from None


def field(record: Any, name: str, kind: type[Kind], where: object) -> Kind:
    """A required field of a record. Raises BadSample that tells what is there instead."""
    value = present(record, name, where)
    if not isinstance(value, kind):
        raise BadSample(f"{where}: field {name!r} is {describe(value)}; expected {KINDS[kind]}")
    return value


def present(record: Any, name: str, where: object) -> Any:
    """A required field of a record, of whatever kind. Raises BadSample that lists the fields where it is missing."""
    if not isinstance(record, Mapping):
        raise BadSample(f"{where}: {describe(record)}; expected an object with the field {name!r}")
    if name not in record:
        raise BadSample(f"{where}: no field {name!r}; it has {field_names(record)}")
    return record[name]


def texts(value: Any, name: str, where: object) -> tuple[str, ...]:
    """What an answer or a caption says; a list has other wordings too. Numbers, true and false are as JSON writes them."""
    values = value if isinstance(value, list) else [value]
    said = []
    for one in values:
        if isinstance(one, int) or (isinstance(one, float) and math.isfinite(one)):
            one = json.dumps(one)
        if not isinstance(one, str):
            raise BadSample(f"{where}: field {name!r} is {describe(value)}; expected text")
        said.append(one)
    return tuple(one for one in said if one.strip()) or ("",)


KINDS = {
    str: "text",
    bytes: "bytes",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def describe(value: Any) -> str:
    """What a value is, in words."""
    if is_missing(value):
        return "null" if value is None else "NaN"
    return KINDS.get(type(value), type(value).__name__)


def is_missing(value: Any) -> bool:
    """Whether this is how tables and JSON write that there is no value: null, or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def field_names(record: Mapping[Any, Any], most: int = 30) -> str:
    """The names of a record's fields, for errors."""
    names = [f"{name!r:.60}" for name in list(record)[:most]]
    more = f" and {len(record) - most:,} more" if len(record) > most else ""
    return ", ".join(names) + more if names else "none at all"
