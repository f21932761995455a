"""JSON files: a list of records, or one record on each line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mplug_owl.data.sources.records import Indexed, Records, Stretch, check_file, decode, lines, parse_json, unpacked
from mplug_owl.errors import BadSample, UserError

# As far as a record that does not end on its first line is looked into.
_LOOKED_INTO = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(path: Path) -> Records:
    """A JSON list or JSON lines. The first character tells them apart."""
    check_file(path)
    with unpacked(path).open("rb") as file:
        start = file.read(4096)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16 text; save it as UTF-8")
    if not start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        records = Indexed(path, lines, parse_json, expected="one JSON object on each line")
        _check_first_line(records)
        return records
    return Indexed(path, lambda file: _elements(file, path.name), parse_json, "record", "a JSON list of objects")


def read_whole(path: Path, name: str | None = None) -> Any:
    """The JSON value that a file is. Raises UserError that tells the line."""
    name = name or path.name
    try:
        return json.loads(decode(path.read_bytes()))
    except json.JSONDecodeError as error:
        raise UserError(f"{name}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        what = "JSON nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{name}: {what}") from None


def _check_first_line(records: Indexed) -> None:
    """Raise UserError where the file is one object over many lines: nothing in it would be a record."""
    try:
        records[0]
    except BadSample:
        with records.unpacked.open("rb") as file:
            text = file.read(_LOOKED_INTO).decode("utf-8-sig", "replace")
        try:
            value, end = json.JSONDecoder().raw_decode(text.lstrip())
        except (ValueError, RecursionError):
            return  # a damaged line, which says so when it is read
        if not isinstance(value, dict):
            return
        if text.lstrip()[end:].strip() or "\n" not in text.strip():
            what = "its first record stands on several lines; expected one JSON object on each line, or a JSON list"
        else:
            lists = [
                name for name, inside in value.items() if isinstance(inside, list) and inside and isinstance(inside[0], dict)
            ]
            inside = f"; the records may be in {lists[0]!r:.60}" if lists else ""
            names = ", ".join(f"{name!r:.60}" for name in list(value)[:5])
            what = f"one JSON object with {names}; expected a JSON list of records, or one on each line{inside}"
        raise UserError(f"{records.path.name}: {what}") from None


def _elements(path: Path, name: str) -> Iterator[Stretch]:
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
        read_whole(path, name)  # knows the line and the words for what is wrong
        raise


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the elements of a JSON list start and end in its text. Raises ValueError or IndexError where it is none."""
    parse = json.JSONDecoder().raw_decode
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "]":
        end = parse(text, at)[1]
        yield at, end
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)
            if text[at] == "]":
                raise ValueError("a comma in front of the end")
        elif text[at] != "]":
            raise ValueError("no comma between elements")
    if _after_space(text, at + 1) != len(text):
        raise ValueError("more than one value")


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
