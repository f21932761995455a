"""Files of JSON lines that grow: one process writes, each line is on the disk at once, a crash costs at most half of one."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from mplug_owl.errors import UserError
from mplug_owl.writing import writing


class AppendedLines:
    """Appends to a file of JSON lines; what a crash left of a last line is cut off first, and a whole one gets its end.

    Several threads may append. Whatever is appended survives the end of the process at once, and the end of the machine after
    `sync_seconds` at most.

    Args:
        path: The file. Its folder is made.
        sync_seconds: How long lines may wait for the disk; 0 waits for it at every line.

    Raises:
        WriteError: The disk takes no more.
    """

    def __init__(self, path: Path, sync_seconds: float = 0.0) -> None:
        self.path, self.sync_seconds = path, sync_seconds
        self._lock, self._synced = Lock(), time.monotonic()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                whole = path.read_bytes()
                last = whole[whole.rfind(b"\n") + 1 :]
                if is_whole(last):  # an editor saved it without an end
                    file.write(b"\n")
                elif last:
                    file.truncate(len(whole) - len(last))

    def append(self, row: Mapping[str, object]) -> None:
        """Write one line, or nothing where the disk is full."""
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock, writing(self.path), self.path.open("ab") as file:
            size = file.tell()
            try:
                file.write(line)
                file.flush()
                if time.monotonic() - self._synced >= self.sync_seconds:
                    os.fsync(file.fileno())  # where some disks find out that they are full
                    self._synced = time.monotonic()
            except OSError:
                file.truncate(size)
                raise


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file with the numbers of their lines, counted from 1. A last line cut short by a crash is left out.

    Raises:
        UserError: There is no such file, or a line is no JSON object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return  # no end of line: it was being written
            raise UserError(f"{path}, line {number}: no JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: a {type(row).__name__}; expected an object")
        yield number, row


def is_whole(line: bytes) -> bool:
    """Whether it is an object from its first brace to its last: no part of one is."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field of a line as text. Some files have their ids as numbers. Raises UserError where it is something else."""
    value = row.get(name)
    if name == "question_id" and isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} is {value!r:.80}; expected text")
    return value


def earlier_turns(row: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The turns before a line's own; none where it does not say. Raises UserError where they are something else."""
    turns = row.get("earlier") or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(f"{where}: earlier is {turns!r:.80}; expected a list of turns with question and answer")
    return turns
