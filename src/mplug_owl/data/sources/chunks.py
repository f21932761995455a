"""The chunk cache: large pieces of remote files on this machine's disk, each fetched once for all its processes.

A file in a store is cut at every `CHUNK` bytes. Pieces lie in the user's cache as files of their own, so workers and ranks
share them. There are never more than a set number of bytes; the oldest pieces leave first.
"""

import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol

from mplug_owl.data.sources.store import PATIENCE, cache_folder, fetch
from mplug_owl.errors import UserError
from mplug_owl.writing import locked, replacing

# 300 pictures of 256 pixels. Amazon advises requests of 8 to 16 MB for throughput.
CHUNK = 8 * 2**20
# What the cache may hold, in GB (10^9 bytes); 0 keeps nothing.
SETTING = "OWL_CHUNK_CACHE_GB"
DEFAULT_GB = 20.0
# Space on the disk that is left to others.
SPARE = 2**30
# The lock of whoever makes room for a piece and writes it.
ROOM = "room.lock"
# Behind the bytes of a piece stands their checksum: a machine may have gone down while they were written.
MARK = 4


class Remote(Protocol):
    """What is known of a file in a store. `key` names exactly this version of it."""

    @property
    def address(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def version(self) -> str: ...
    @property
    def key(self) -> str: ...


def numbers(start: int, end: int) -> range:
    """The pieces that hold the bytes from `start` to `end`."""
    return range(start // CHUNK, -(-end // CHUNK))


def is_kept(file: Remote, number: int) -> bool:
    """Whether a piece is on this machine."""
    return _path(file, number).exists()


def keep(file: Remote, number: int) -> bool:
    """Fetch a piece if no process of this machine has it; wait where another is fetching it. False where the disk has no room.

    Raises UserError where the store does not give it.
    """
    if not allowed_bytes():
        return False
    try:
        path = _path(file, number)
        with locked(path.with_suffix(".lock"), PATIENCE) as mine:
            if path.exists():
                return True
            if not mine:
                return False
            start, end = number * CHUNK, min((number + 1) * CHUNK, file.size)
            if not _may_fit(path.parent, end - start + MARK):  # it would be fetched for nothing, at each sample again
                return False
            raw = fetch(file.address, start, end, file.version)
            # One piece at a time: two that made room together would both count the same bytes as free.
            with locked(path.with_name(ROOM), PATIENCE) as alone:
                if not alone:
                    return False
                _make_room(path.parent, len(raw) + MARK)
                with replacing(path) as part:
                    part.write_bytes(raw + zlib.crc32(raw).to_bytes(MARK, "little"))
        return True
    except OSError:  # the disk is full or the lock is never free, which makes it slow and not wrong
        return False


def read(file: Remote, start: int, end: int) -> bytes | None:
    """The bytes from `start` to `end`, if all their pieces are on this machine."""
    parts = []
    for number in numbers(start, end):
        first = number * CHUNK
        part = _part(file, number, max(start - first, 0), min(end - first, CHUNK))
        if part is None:
            return None
        parts.append(part)
    return b"".join(parts)


def _part(file: Remote, number: int, start: int, end: int) -> bytes | None:
    path, length = _path(file, number), min(CHUNK, file.size - number * CHUNK)
    try:
        with path.open("rb") as piece:
            about = os.fstat(piece.fileno())
            if not _is_whole(path, piece, (about.st_ino, about.st_mtime_ns), length):
                path.unlink(missing_ok=True)
                return None
            piece.seek(start)
            return piece.read(end - start)
    except OSError:  # it left in the meantime
        return None


_whole: OrderedDict[Path, tuple[int, int]] = OrderedDict()


def _is_whole(path: Path, piece: BinaryIO, identity: tuple[int, int], length: int) -> bool:
    """Whether a piece has the bytes that were fetched; each process looks once."""
    if _whole.get(path) == identity:
        return True
    raw = piece.read()
    whole = len(raw) == length + MARK and zlib.crc32(raw[:-MARK]).to_bytes(MARK, "little") == raw[-MARK:]
    if whole:
        _whole[path] = identity
        while len(_whole) > 4096:
            _whole.popitem(last=False)
    return whole


def allowed_bytes() -> int:
    """What the cache may hold. Raises UserError for a setting that is no number."""
    return _allowed(os.environ.get(SETTING, ""))


@cache
def _allowed(setting: str) -> int:
    try:
        gigabytes = float(setting) if setting else DEFAULT_GB
        if not 0 <= gigabytes < 1e9:
            raise ValueError
    except ValueError:
        raise UserError(f"{SETTING}={setting}: expected a number of GB, 0 for no cache") from None
    return int(gigabytes * 1e9)


def _may_fit(folder: Path, room: int) -> bool:
    """Whether there is room for a piece, or would be where the others left."""
    if room > allowed_bytes():
        return False
    free = shutil.disk_usage(folder).free - SPARE
    return free >= room or free + sum(size for _, size, _ in _pieces(folder)) >= room


def _make_room(folder: Path, room: int) -> None:
    """Remove the oldest pieces until one more fits, into what is allowed and onto the disk. Raises OSError if it never does."""
    pieces = sorted(_pieces(folder))
    used = sum(size for _, size, _ in pieces)
    free = shutil.disk_usage(folder).free
    for _, size, path in pieces:
        if used + room <= allowed_bytes() and free >= room + SPARE:
            return
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
        used, free = used - size, free + size
    if used + room > allowed_bytes() or free < room + SPARE:
        raise OSError(28, "no room for the chunk cache")


def _pieces(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Each piece: when it was written, its bytes, its path. What a killed process left half written is one too."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(".lock"):
                try:
                    about = entry.stat()
                except OSError:
                    continue
                yield about.st_mtime_ns, about.st_size, Path(entry.path)


def _path(file: Remote, number: int) -> Path:
    return _folder(cache_folder()) / f"{file.key}-{CHUNK}-{number:05d}"


@cache
def _folder(above: Path) -> Path:
    folder = above / "chunks"
    folder.mkdir(exist_ok=True)
    return folder
