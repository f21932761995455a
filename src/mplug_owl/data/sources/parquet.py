"""Parquet: rows of tables, read a row group at a time, from this machine or from a store.

A row costs its whole group. Groups are held in memory as far as they fit; one that comes round again is unpacked into the
user's cache, where rows are mapped one by one, so that training in random order reads no group more than twice.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mplug_owl.data.sources.files import File, cache_folder, find, is_remote, needed
from mplug_owl.data.sources.formats import FIELDS

# Row groups kept for the next row, in each process: some dozen of those that hold photographs.
HELD_BYTES = 512 * 2**20


class Rows:
    """The rows of parquet files, one file after the other. Only footers are read before a row is asked for."""

    def __init__(self, files: Sequence[File]) -> None:
        self.files = tuple(files)
        # Pictures named by a path are looked for beside the first file.
        self.folder = Path() if is_remote(files[0].address) else Path(files[0].address).parent
        # Where the row groups of each file end, and where the files end.
        self.groups = [_group_ends(file) for file in files]
        self.ends = np.cumsum([ends[-1] if len(ends) else 0 for ends in self.groups])
        self._held, self._seen = OrderedDict[tuple[int, int], Any](), set[tuple[int, int]]()
        if not len(self):
            raise ValueError(f"{files[0].address}: no records in the file; expected rows")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, row = self._find(index)
        group = int(np.searchsorted(self.groups[file], row, side="right"))
        first = int(self.groups[file][group - 1]) if group else 0
        return self._table(file, group, self.location(index)).slice(row - first, 1).to_pylist()[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "_seen": set()}

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


def open_rows(pattern: str) -> Rows:
    """The rows of the parquet files of a path, a folder, a pattern or an address."""
    return Rows(find(pattern, ".parquet"))


def _group_ends(file: File) -> np.ndarray:
    parquet = needed("pyarrow.parquet", "parquet")
    try:
        with file.open() as stream:
            about = parquet.read_metadata(stream)
    except ValueError as error:
        raise ValueError(f"{file.address}: not a whole parquet file ({error})") from None
    return np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])


def _read(file: File, group: int, location: str) -> Any:
    parquet = needed("pyarrow.parquet", "parquet")
    try:
        with file.open() as stream, parquet.ParquetFile(stream) as table:
            known = [name for name in table.schema_arrow.names if name in FIELDS]
            # One thread: worker processes are as many as there are cores already.
            return table.read_row_group(group, columns=known or None, use_threads=False)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and is_remote(file.address):
            raise  # the network, for all we know
        raise ValueError(f"{location}: row group {group + 1} is damaged ({error})") from None


def _unpacked(file: File, group: int, location: str) -> Any:
    """A row group mapped from the cache: no row but the one that is asked for is read."""
    arrow = needed("pyarrow", "parquet")
    kept = cache_folder() / f"{file.key}-{group}.arrow"
    if not kept.exists():
        table = _read(file, group, location)
        part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
        try:
            with arrow.OSFile(str(part), "wb") as out, arrow.ipc.new_file(out, table.schema) as writer:
                writer.write_table(table)
        except OSError:  # the disk is full, which makes it slow and not wrong
            part.unlink(missing_ok=True)
            return table
        part.replace(kept)
    return arrow.ipc.open_file(arrow.memory_map(str(kept))).read_all()
