"""Where the records of a file are: 16 bytes a record, which all processes share and the next opening finds again."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mplug_owl.data.sources.files import File, cache_folder
from mplug_owl.errors import UserError, WriteError
from mplug_owl.writing import replacing, writing

# The first byte of a record, the byte after its last, and its number in the file.
Stretch = tuple[int, int, int]
Split = Callable[[Path], Iterator[Stretch]]
# Below this a file is gone through in less than a second (benchmarks/big_json.py), so nothing is kept on disk.
KEPT_FROM = 16 * 2**20
# How what is kept is laid out and found. Another number has every file gone through anew.
LAYOUT = 1
_ROW = np.dtype([("start", "<u8"), ("length", "<u4"), ("number", "<u4")])
_pack = struct.Struct("<QII").pack
# Bytes of rows that are written at once.
_AT_ONCE = 2**20


class Stretches:
    """Rows of start, length and number. Those of a large file are mapped from the user's cache.

    `kind` says how the file is split, for one may be read in several ways.
    """

    def __init__(self, path: Path, kind: str, split: Split) -> None:
        self.kept: Path | None = None
        about = path.stat()
        if about.st_size >= KEPT_FROM:
            file = File(str(path.resolve()), about.st_size, str(about.st_mtime_ns))
            self.kept = cache_folder() / f"{file.key}-{kind}-{LAYOUT}.stretches"
            rows = _mapped(self.kept, about.st_size)
            if rows is None and _written(self.kept, path, split, about.st_size):
                rows = _mapped(self.kept, about.st_size)
            if rows is not None:
                self.rows = rows
                return
        self.kept, self.rows = None, np.frombuffer(b"".join(_packed(path, split)), _ROW)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Stretch:
        start, length, number = self.rows[index].item()
        return start, start + length, number

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the same file."""
        return {"kept": self.kept, "rows": None if self.kept else self.rows, "size": len(self.rows)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.kept, self.rows = state["kept"], state["rows"]
        if self.kept is not None:
            try:
                self.rows = _map(self.kept)
            except OSError as error:
                raise UserError(f"{self.kept}: {error.strerror}; it was there when the data was opened") from None


def _map(kept: Path) -> np.ndarray:
    """All rows but the last, which closes the file."""
    return np.asarray(np.memmap(kept, _ROW, "r"))[:-1]


def _mapped(kept: Path, size: int) -> np.ndarray | None:
    """What is kept about a file of this size; None where nothing is, or a machine went down while it was written."""
    try:
        if bytes(np.memmap(kept, _ROW, "r")[-1]) != _pack(size, 0, 0):
            return None
        return _map(kept)
    except (OSError, ValueError, IndexError):
        return None


def _written(kept: Path, path: Path, split: Split, size: int) -> bool:
    """Write what is found, while it is found. False where the disk has no room: the rows are then held in memory."""
    try:
        with writing(kept), replacing(kept) as part, part.open("wb") as out:
            for rows in _packed(path, split):
                out.write(rows)
            out.write(_pack(size, 0, 0))
    except WriteError:
        return False
    return True


def _packed(path: Path, split: Split) -> Iterator[bytes]:
    rows = bytearray()
    for start, end, number in split(path):
        try:
            rows += _pack(start, end - start, number)
        except struct.error:
            raise UserError(f"{path}: a record of {end - start:,} bytes; 4 GiB is the most that is read") from None
        if len(rows) >= _AT_ONCE:
            yield bytes(rows)
            rows.clear()
    yield bytes(rows)
