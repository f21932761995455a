"""Records: what a file holds one by one, read when asked for, each with a place to name in an error."""

import csv
import io
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol


class Records(Protocol):
    """The records of one file or many. Reading a damaged one raises ValueError that names its place."""

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
        return f"{self.path.name}, record {index + 1}"


class Indexed:
    """Records that stay in the file; only where each one starts and ends is held in memory, 24 bytes a record."""

    def __init__(
        self, path: Path, stretches: Iterator[tuple[int, int, int]], parse: Callable[[str], Any], unit: str = "line"
    ) -> None:
        self.path, self.folder, self.parse, self.unit = path, path.parent, parse, unit
        self.starts, self.ends, self.numbers = array("Q"), array("Q"), array("Q")
        for start, end, number in stretches:
            self.starts.append(start)
            self.ends.append(end)
            self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Any:
        start = self.starts[index]
        with self.path.open("rb") as file:
            file.seek(start)
            raw = file.read(self.ends[index] - start)
        try:
            return self.parse(decode(raw))
        except ValueError as error:
            raise ValueError(f"{self.location(index)}: {error}") from None

    def location(self, index: int) -> str:
        return f"{self.path.name}, {self.unit} {self.numbers[index]}"


def read_json(path: Path) -> Records:
    """A JSON list or JSON lines. The first character tells them apart."""
    check_file(path)
    with path.open("rb") as file:
        listed = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if not listed:
        return _filled(Indexed(path, _lines(path), parse_json), "one JSON object on each line")
    return _filled(Indexed(path, _elements(path), parse_json, "record"), "a JSON list of objects")


def read_whole(path: Path) -> Any:
    """The JSON value that a file is. Raises ValueError that tells the line."""
    check_file(path)
    try:
        return json.loads(decode(path.read_bytes()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}, line {error.lineno}: {_not_json(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    except RecursionError:
        raise ValueError(f"{path.name}: JSON nested too deeply") from None


def read_table(path: Path) -> Records:
    """A CSV or TSV file whose first row names the columns."""
    check_file(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    expected = "a row of column names and rows below it"
    cells = _filled(Indexed(path, _rows(path, delimiter), partial(_cells, delimiter)), expected)
    parse = partial(_named_cells, delimiter, tuple(cells[0]))
    return _filled(Indexed(path, islice(_rows(path, delimiter), 1, None), parse), expected)


def read_blocks(path: Path) -> Records:
    """A text file whose documents are set apart by blank lines."""
    check_file(path)
    return _filled(Indexed(path, _blocks(path), str.strip), "documents with blank lines between them")


def _cells(delimiter: str, row: str) -> list[str]:
    return next(csv.reader(io.StringIO(row, newline=""), delimiter=delimiter))


def _named_cells(delimiter: str, columns: tuple[str, ...], row: str) -> dict[str, str]:
    cells = _cells(delimiter, row)
    if len(cells) != len(columns):
        raise ValueError(f"{len(cells)} cells but {len(columns)} columns ({', '.join(columns)})")
    return dict(zip(columns, cells, strict=True))


def parse_json(text: str) -> Any:
    """One JSON value. Raises ValueError that tells the column."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(_not_json(error)) from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def check_file(path: Path) -> None:
    """Raise ValueError unless there is a file with something in it."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: a folder; expected a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")


def field(record: Any, name: str, kind: type, where: object) -> Any:
    """A required field of a record. Raises ValueError that tells what is there instead."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: {describe(record)}; expected an object with the field {name!r}")
    if name not in record:
        raise ValueError(f"{where}: no field {name!r}; it has {', '.join(map(repr, record)) or 'none at all'}")
    value = record[name]
    if not isinstance(value, kind):
        raise ValueError(f"{where}: field {name!r} is {describe(value)}; expected {KINDS[kind]}")
    return value


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
    return "null" if value is None else KINDS.get(type(value), type(value).__name__)


def _filled(records: Listed | Indexed, expected: str) -> Listed | Indexed:
    if not len(records):
        raise ValueError(f"{records.path}: no records in the file; expected {expected}")
    return records


def decode(raw: bytes) -> str:
    """Text from its bytes. Raises ValueError that tells which are none."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {raw[error.start]:#04x} at {error.start})") from None


def _not_json(error: json.JSONDecodeError) -> str:
    return f"not JSON ({error.msg} at column {error.colno})"


def _lines(path: Path) -> Iterator[tuple[int, int, int]]:
    """Every line that is not blank: its first byte, the byte after its last, its number."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if line.strip():
                yield start, end, number


def _elements(path: Path) -> Iterator[tuple[int, int, int]]:
    """Every element of a JSON list: its first byte, the byte after its last, its number.

    Each is parsed to find its end, and let go: the 665,000 talks of LLaVA would fill 4 GB in every worker process.
    """
    raw = path.read_bytes()
    try:
        text = decode(raw)
        byte, done = len(raw) - len(text.encode()), 0
        for number, (start, end) in enumerate(_spans(text), 1):
            first = byte + len(text[done:start].encode())
            byte, done = first + len(text[start:end].encode()), end
            yield first, byte, number
    except (ValueError, IndexError, RecursionError):
        read_whole(path)  # knows the line and the words for what is wrong
        raise


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the elements of a JSON list start and end in its text. Raises ValueError or IndexError where it is none."""
    space, parse = re.compile(r"[ \t\n\r]*").match, json.JSONDecoder().raw_decode
    at = space(text, space(text).end() + 1).end()
    while text[at] != "]":
        end = parse(text, at)[1]
        yield at, end
        at = space(text, end).end()
        if text[at] == ",":
            at = space(text, at + 1).end()
            if text[at] == "]":
                raise ValueError("a comma in front of the end")
        elif text[at] != "]":
            raise ValueError("no comma between elements")
    if space(text, at + 1).end() != len(text):
        raise ValueError("more than one value")


def _blocks(path: Path) -> Iterator[tuple[int, int, int]]:
    """Neighbouring lines together, as far as the next blank one."""
    block: tuple[int, int, int] | None = None
    last = 0
    for start, end, number in _lines(path):
        if block and number == last + 1:
            block = block[0], end, block[2]
        else:
            if block:
                yield block
            block = start, end, number
        last = number
    if block:
        yield block


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, int, int]]:
    """Rows of a table; one with line breaks inside quotes spans several lines."""
    end = 0

    def lines(file: Any) -> Iterator[str]:
        nonlocal end
        for line in file:
            end += len(line)
            yield line.decode("utf-8", "replace")

    with path.open("rb") as file:
        rows, start, number = csv.reader(lines(file), delimiter=delimiter), 0, 1
        try:
            for row in rows:
                if any(cell.strip() for cell in row):
                    yield start, end, number
                start, number = end, rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from None
