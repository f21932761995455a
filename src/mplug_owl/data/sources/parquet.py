"""Parquet: rows of tables, read a row group at a time, from this machine or from a store.

A row costs its whole group. Groups are held in memory as far as they fit; one that comes round again is unpacked into the
user's cache, where rows are mapped one by one, so that training in random order reads no group more than twice.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mplug_owl.data.sources.files import (
    SKIP_BROKEN,
    File,
    cache_folder,
    find,
    is_remote,
    needed,
    say_once,
    skip_broken,
)
from mplug_owl.data.sources.formats import FIELDS, READ_FIELDS
from mplug_owl.errors import BadSample, UserError
from mplug_owl.writing import replacing

# Row groups kept for the next row, in each process: some dozen of those that hold photographs.
HELD_BYTES = 512 * 2**20


class Rows:
    """The rows of parquet files, one file after the other. Only footers are read before a row is asked for.

    Args:
        files: The parquet files.
        faults: Where broken files are to be written down and left out; None refuses them.

    Raises:
        UserError: Files are broken, or there is no row in any.
    """

    def __init__(self, files: Sequence[File], faults: list[str] | None = None) -> None:
        footers = _footers(files, faults)
        self.files = tuple(footers)
        # Where the row groups of each file end, and where the files end.
        self.groups = [footer.group_ends for footer in footers.values()]
        self.ends = np.cumsum([ends[-1] if len(ends) else 0 for ends in self.groups])
        # Columns that no format here knows are not read, but an error can name them.
        self.unread = [dict.fromkeys(footer.unread) for footer in footers.values()]
        self._held, self._seen = OrderedDict[tuple[int, int], Any](), set[tuple[int, int]]()
        if not len(self):
            raise UserError(f"{files[0].address}: no records in the file; expected rows")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, row = self._find(index)
        group = int(np.searchsorted(self.groups[file], row, side="right"))
        first = int(self.groups[file][group - 1]) if group else 0
        table, location = self._table(file, group, self.location(index)), self.location(index)
        try:
            record: dict[str, Any] = table.slice(row - first, 1).to_pylist()[0]
        except Exception as error:  # dates beyond the year 9999, text that is none: each of Arrow's types fails in its own way
            raise BadSample(f"{location}: cannot be read ({error})") from error
        return {**self.unread[file], **record}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_seen": set()}

    @property
    def folder(self) -> Path:
        """That of the first file."""
        return self.folder_of(0)

    def folder_of(self, index: int) -> Path:
        """Where the pictures that a row names are looked for: beside its own file."""
        address = self.files[self._find(index)[0]].address
        return Path() if is_remote(address) else Path(address).parent

    @property
    def blocks(self) -> np.ndarray:
        """How many rows each row group has."""
        return np.concatenate([np.diff(ends, prepend=0) for ends in self.groups])

    def location(self, index: int) -> str:
        """`train-00000.parquet, row 17`."""
        file, row = self._find(index)
        return f"{self.files[file].name}, row {row + 1}"

    def _find(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.ends, index, side="right"))
        return file, index - (int(self.ends[file - 1]) if file else 0)

    def _table(self, file: int, group: int, location: str) -> Any:
        """A row group's table; the latest ones are held, so that rows in order read each group once."""
        key = file, group
        if key not in self._held:
            load = _unpacked if key in self._seen else _read
            self._held[key] = load(self.files[file], group, location)
            self._seen.add(key)
            while len(self._held) > 1 and sum(table.nbytes for table in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


class Footer(NamedTuple):
    """What the end of a parquet file says: the rows up to each row group's end, and the columns that are not read."""

    group_ends: np.ndarray
    unread: tuple[str, ...]


def open_rows(pattern: str) -> Rows:
    """The rows of the parquet files of a path, a folder, a pattern or an address.

    `#skip-broken` after it leaves out broken files, which is said once. Raises UserError that names the broken file.
    """
    path, faults = skip_broken(pattern)
    rows = Rows(find(path, ".parquet", faults), faults)
    for fault in faults or ():
        say_once(f"left out: {fault}")
    return rows


def _footers(files: Sequence[File], faults: list[str] | None) -> dict[File, Footer]:
    footers: dict[File, Footer] = {}
    broken = list[str]()
    for file in files:
        try:
            footers[file] = _footer(file)
        except UserError as error:
            broken.append(str(error))
    if broken and (faults is None or not footers):
        raise UserError(broken[0] + (f"\n{SKIP_BROKEN} after the path reads the other files" if footers else ""))
    if faults is not None:
        faults += broken
    return footers


def _footer(file: File) -> Footer:
    parquet = needed("pyarrow.parquet", "parquet")
    try:
        with file.open() as stream:
            about = parquet.read_metadata(stream)
        names = about.schema.to_arrow_schema().names
    except UserError:
        raise
    except Exception as error:  # Arrow's own, OSError, and MemoryError for sizes that lie
        raise UserError(f"{file.address}: not a whole parquet file ({error})") from None
    if twice := [name for name in FIELDS if names.count(name) > 1]:
        raise UserError(f"{file.address}: more than one column is called {twice[0]!r}; rename or drop the others")
    known = [name for name in names if name in READ_FIELDS]
    ends = np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])
    return Footer(ends, tuple(name for name in names if known and name not in READ_FIELDS))


def _read(file: File, group: int, location: str) -> Any:
    parquet = needed("pyarrow.parquet", "parquet")
    try:
        with file.open() as stream, parquet.ParquetFile(stream) as table:
            known = [name for name in table.schema_arrow.names if name in READ_FIELDS]
            # One thread: worker processes are as many as there are cores already.
            return table.read_row_group(group, columns=known or None, use_threads=False)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{file.address}: the file is gone since it was opened") from None
    except Exception as error:  # Arrow's own, OSError, and MemoryError for sizes that lie
        if isinstance(error, OSError) and is_remote(file.address):
            raise UserError(f"{file.address}: cannot be fetched ({error})") from error  # the network, for all we know
        raise BadSample(f"{location}: row group {group + 1} is damaged ({error})") from None


def _unpacked(file: File, group: int, location: str) -> Any:
    """A row group mapped from the cache: no row but the one that is asked for is read."""
    arrow = needed("pyarrow", "parquet")
    kept = cache_folder() / f"{file.key}-{group}.arrow"
    try:
        return arrow.ipc.open_file(arrow.memory_map(str(kept))).read_all()
    except (OSError, ValueError):  # not there yet, or a machine went down while it was written
        table = _read(file, group, location)
    try:
        with replacing(kept) as part, arrow.OSFile(str(part), "wb") as out, arrow.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
    except OSError:  # the disk is full, which makes it slow and not wrong
        return table
    return arrow.ipc.open_file(arrow.memory_map(str(kept))).read_all()
