"""A source: conversations that can be counted and read in any order, and the one place where records are read."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mplug_owl.conversation import Conversation
from mplug_owl.data.sources.formats import Convert, checked, refuse_unseen
from mplug_owl.data.sources.location import Location, shortened
from mplug_owl.data.sources.records import Records
from mplug_owl.errors import BadSample, UserError

# What decoders raise at a damaged record: UnicodeError and Arrow's own are ValueErrors, RecursionError is a RuntimeError.
_DECODERS_RAISE = (ValueError, OSError, RuntimeError, EOFError, OverflowError, MemoryError, struct.error, zlib.error)


class Source(Protocol):
    """Conversations that can be counted and read in any order. A damaged one raises BadSample that names its location."""

    @property
    def name(self) -> str:
        """What it was opened as, `FORMAT:PATH`."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Conversation: ...


@dataclass(frozen=True)
class FileSource:
    """The records of one file or many, each turned into a conversation by its format when it is asked for."""

    name: str
    records: Records
    convert: Convert
    image_root: Path | None = None

    @property
    def blocks(self) -> np.ndarray | None:
        """How many conversations each stretch has that is best read from front to end; None where any order is as good."""
        return getattr(self.records, "blocks", None)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Conversation:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: no conversation {index} among {len(self)}")
        index %= len(self)
        location = self.location(index)
        record = read_record(self.records, index, location)
        refuse_unseen(record, location)
        return checked(self.convert(record, location), location)

    def location(self, index: int) -> Location:
        """Where a conversation comes from; of several files each may have a folder of its own."""
        folder_of = getattr(self.records, "folder_of", None)
        folder = self.records.folder if folder_of is None else folder_of(index)
        return Location(folder, self.records.location(index), self.image_root)

    def expect(self, indices: Sequence[int], nearby: bool = False) -> None:
        """Begin to fetch conversations that will be read soon, where they are in a store; else there is nothing to do.

        With `nearby` their neighbours are read soon as well, by this process or another of the machine.
        """
        if (ahead := getattr(self.records, "expect", None)) is not None:
            ahead(indices, nearby)

    def __iter__(self) -> Iterator[Conversation]:
        return (self[index] for index in range(len(self)))


def read_record(records: Records, index: int, location: Location) -> Any:
    """One record. Raises BadSample with its location, whatever a decoder made of its bytes.

    A store that cannot be reached raises UserError: no record is to blame.
    """
    try:
        return records[index]
    except (BadSample, UserError):
        raise
    except _DECODERS_RAISE as error:
        reason = str(error) or type(error).__name__
        raise BadSample(f"{location}: cannot be read ({shortened(reason)})") from error


def in_turn(source: object, indices: Sequence[int], ahead: int = 32) -> Iterator[int]:
    """These indices, while the source hears which come soon: what is in a store is fetched meanwhile, in threads."""
    expect = getattr(source, "expect", None)
    for begin in range(0, len(indices), ahead):
        if expect is not None:
            expect(indices[begin and begin + ahead : begin + 2 * ahead])
        yield from indices[begin : begin + ahead]
