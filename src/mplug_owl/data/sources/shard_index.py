"""An index of shards: one SQLite file for a folder of them, with what is in each, beside them or in the user's cache.

SQLite because it is one file, is read by many while one writes, and survives a kill. A sample takes some six bytes in it.
"""

import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from mplug_owl.data.sources.files import File
from mplug_owl.data.sources.store import asked, cache_folder, file_system, is_remote
from mplug_owl.errors import UserError
from mplug_owl.writing import replacing

# What is passed over in a shard: by the reason, how many files, and the name of one.
PassedOverFiles = Mapping[str, tuple[int, str]]
# A shard with its samples and what is passed over in it; and a broken one with a sentence about it.
Read = tuple[File, np.ndarray, PassedOverFiles]
Fault = tuple[File, str]

NAME = "owl-index.sqlite"
# How it is laid out. One of another number is not read, and is made anew.
LAYOUT = 1
# Seconds that one process waits for another to end writing.
PATIENCE = 120.0
_TABLES = (
    "CREATE TABLE shards (name TEXT PRIMARY KEY, size INTEGER, version TEXT, samples INTEGER, passed_over TEXT) STRICT",
    "CREATE TABLE contents (name TEXT PRIMARY KEY, key_bytes INTEGER, packed BLOB) STRICT",
    "CREATE TABLE faults (name TEXT PRIMARY KEY, sentence TEXT) STRICT",
)


class Indexed(NamedTuple):
    """What an index says of a shard; `is_same` where it is this version of it, and not only one of its size."""

    samples: int
    passed_over: PassedOverFiles
    is_same: bool


def folder_of(file: File) -> str:
    """The folder that a shard lies in."""
    return file.address.rpartition("/")[0]


def beside(folder: str) -> str:
    """Where the index of a folder of shards lies beside them."""
    return f"{folder}/{NAME}"


def in_cache(folder: str) -> Path:
    """Where it lies in the user's cache."""
    return cache_folder() / f"index-{hashlib.sha256(folder.encode()).hexdigest()[:32]}.sqlite"


def indexed_counts(files: Iterable[File]) -> dict[File, Indexed]:
    """What is known of these shards by the indices of their folders."""
    found, folders = dict[File, Indexed](), dict[str, list[File]]()
    for file in files:
        folders.setdefault(folder_of(file), []).append(file)
    for folder, there in folders.items():
        for path in _paths(folder):
            rows = {row[0]: row[1:] for row in _asked(path, "SELECT * FROM shards")}
            for file in there:
                size, version, samples, passed_over = rows.get(file.name, (None, None, 0, "{}"))
                is_same = version == file.version
                if size == file.size and (is_same or file not in found):
                    found[file] = Indexed(samples, json.loads(passed_over), is_same)
    return found


def indexed(file: File) -> tuple[np.ndarray, PassedOverFiles] | None:
    """The samples of a shard and what is passed over in it, where an index has exactly this version of it."""
    question = (
        "SELECT samples, passed_over, key_bytes, packed FROM shards JOIN contents USING (name) "
        "WHERE name = ? AND size = ? AND version = ?"
    )
    for path in _paths(folder_of(file)):
        for samples, passed_over, key_bytes, packed in _asked(path, question, (file.name, file.size, file.version)):
            with contextlib.suppress(ValueError, zlib.error):  # damaged
                return unpack(packed, samples, key_bytes), json.loads(passed_over)
    return None


class Writer:
    """Adds shards to an index; several processes may do so at once. Raises sqlite3.Error where there is no room."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")
        if self._connection.execute("PRAGMA user_version").fetchone() != (LAYOUT,):
            for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                self._connection.execute(f'DROP TABLE "{name}"')
            for table in _TABLES:
                self._connection.execute(table)
            self._connection.execute(f"PRAGMA user_version = {LAYOUT}")
        self._connection.execute("COMMIT")

    def missing(self, files: Sequence[File]) -> list[File]:
        """Those shards that are not in it, or in another version."""
        there = set(self._connection.execute("SELECT name, size, version FROM shards"))
        return [file for file in files if (file.name, file.size, file.version) not in there]

    def add(self, shards: Sequence[Read], faults: Sequence[Fault]) -> None:
        """Put in shards with their samples and what is passed over, and the faults of broken ones; all of it or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        for file, samples, passed_over in shards:
            row = (file.name, file.size, file.version, len(samples), json.dumps(passed_over))
            self._connection.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?)", row)
            packed = (file.name, samples.dtype["key"].itemsize, pack(samples))
            self._connection.execute("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", packed)
            self._connection.execute("DELETE FROM faults WHERE name = ?", (file.name,))
        rows = [(file.name, sentence) for file, sentence in faults]
        self._connection.executemany("INSERT OR REPLACE INTO faults VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def faults(self, files: Iterable[File]) -> list[str]:
        """What is wrong with those shards that are broken."""
        said = dict(self._connection.execute("SELECT * FROM faults").fetchall())
        return [said[file.name] for file in files if file.name in said]

    def close(self) -> None:
        """Nothing more is added."""
        self._connection.close()


def row_type(key_bytes: int) -> np.dtype:
    """A sample of a shard: its key, and where its picture and its words lie."""
    span = [("ending", "S7"), ("start", "u8"), ("end", "u8")]
    return np.dtype([("key", f"S{key_bytes}"), *[(f"{kind}_{name}", of) for kind in ("picture", "words") for name, of in span]])


def pack(samples: np.ndarray) -> bytes:
    """Samples as few bytes: lengths for ends, steps for starts, then all rows' first bytes, all second ones, and so on."""
    steps = np.array(samples)
    for kind in ("picture", "words"):
        steps[f"{kind}_end"] -= steps[f"{kind}_start"]
    steps["words_start"] -= steps["picture_start"]  # numbers without a sign wrap around, here and back
    steps["picture_start"][1:] -= samples["picture_start"][:-1]
    return zlib.compress(np.frombuffer(steps.tobytes(), np.uint8).reshape(len(steps), -1).T.tobytes() if len(steps) else b"")


def unpack(packed: bytes, samples: int, key_bytes: int) -> np.ndarray:
    """The samples again. Raises ValueError or zlib.error for bytes that are damaged."""
    kind = row_type(key_bytes)
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(kind.itemsize, samples)
    rows = np.frombuffer(bytearray(planes.T.tobytes()), kind)
    rows["picture_start"] = np.cumsum(rows["picture_start"], dtype=np.uint64)
    rows["words_start"] += rows["picture_start"]
    for part in ("picture", "words"):
        rows[f"{part}_end"] += rows[f"{part}_start"]
    return rows


def _paths(folder: str) -> list[Path]:
    """The indices of a folder that are there."""
    near = fetched_index(folder) if is_remote(folder) else Path(beside(folder))
    return [path for path in (near, in_cache(folder)) if path is not None and path.exists()]


@cache
def fetched_index(folder: str) -> Path | None:
    """A copy of the index that lies beside remote shards; asked for once by each process."""
    address = beside(folder)
    try:
        system, there = file_system(address)
        about = asked(address, lambda: system.info(there))
        version = hashlib.sha256(f"{address} {about.get('size')} {system.ukey(there)}".encode()).hexdigest()[:32]
        copy = cache_folder() / f"index-{version}.sqlite"
        if not copy.exists():
            with replacing(copy) as part:
                asked(address, lambda: system.get_file(there, str(part)))
    except (OSError, UserError):  # there is none, or a store that answers nothing to this question
        return None
    return copy


def _asked(path: Path, question: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
    """Rows of an index; none of one that is damaged, of another layout, or that another process holds for too long.

    What a kill left half written is undone first: so it is opened for writing, which SQLite does only where it may.
    """
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=PATIENCE)) as connection,
    ):
        if connection.execute("PRAGMA user_version").fetchone() == (LAYOUT,):
            yield from connection.execute(question, values).fetchall()
