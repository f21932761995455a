"""JSON files: a list of records, or one record on each line."""

import json
from pathlib import Path
from typing import Any

from mplug_owl.data.sources.json_list import elements
from mplug_owl.data.sources.records import Indexed, Records, check_file, decode, lines, parse_json, unpacked
from mplug_owl.errors import BadSample, UserError

# As far as a record that does not end on its first line is looked into.
_LOOKED_INTO = 2**20


def read_json(path: Path) -> Records:
    """A JSON list or JSON lines. The first character tells them apart."""
    check_file(path)
    with unpacked(path).open("rb") as file:
        start = file.read(4096)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16 text; save it as UTF-8")
    if not start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        records = Indexed(path, "lines", lines, parse_json, expected="one JSON object on each line")
        _check_first_line(records)
        return records
    return Indexed(path, "list", lambda file: elements(file, path.name), parse_json, "record", "a JSON list of objects")


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
