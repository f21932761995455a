"""How many samples each of many shards holds, without reading them: what is kept, what stands beside them, or an estimate.

In this order: what we have read of a shard before, the index of a copy, img2dataset's `NNNNN_stats.json` or `NNNNN.parquet`,
and an estimate by its size. Where only a few are left that nobody has read, these are read now, so small sets are exact.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from mplug_owl.data.sources.files import SKIP_BROKEN, File, is_remote, needed, small_file
from mplug_owl.data.sources.shard_contents import PassedOver, contents_of, first_samples, read_counts
from mplug_owl.data.sources.tar import BLOCK
from mplug_owl.errors import UserError

# So many shards that nobody has read are read before the first step: half a minute's work where they hold 10,000 samples.
READ_AT_OPENING = 64
# Remote ones are fetched whole to be read, so no more than this.
FETCHED_AT_OPENING = 2**30
# An estimate is made from the first bytes of so many shards, evenly apart: about 2,500 samples of LAION's size.
PROBES, HEAD = 16, 4 * 2**20
# Broken shards named in one error.
LISTED = 5
# Who said how many samples a shard holds, as `Counts.said_by` has it: its headers, a run that is resumed, or one of these.
HEADERS, PINNED, INDEX, STATS, PARQUET, ESTIMATE = range(6)
SAID_BY = {INDEX: "its index says", STATS: "its _stats.json says", PARQUET: "its .parquet says"}
# Small files asked of a store at once.
AT_ONCE = 64

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Counts(NamedTuple):
    """The shards, the slots of each [shards], who said so [shards], and what is passed over in those that were read."""

    files: tuple[File, ...]
    slots: np.ndarray
    said_by: np.ndarray
    passed_over: Sequence[dict[str, PassedOver]]


def count(files: Sequence[File], faults: list[str] | None, most: int | None = None) -> Counts:
    """How many samples each shard has, as well as it is known before the first step.

    Args:
        files: The shards.
        faults: Where broken shards are to be written down and left out; None refuses them.
        most: How many shards that nobody has read are read now, None for a few.

    Raises:
        UserError: Shards among the few that are read now are broken, or nothing can be read of any.
    """
    read, alike = read_counts(files)
    unread = [file for file in files if file not in read]
    fetched = sum(file.size for file in unread if is_remote(file.address))
    if len(unread) <= READ_AT_OPENING and fetched <= FETCHED_AT_OPENING if most is None else len(unread) <= most:
        broken = _read(files, unread, read, faults)
        files = [file for file in files if file not in broken]
        told = dict[File, tuple[int, int]]()
    else:
        told = {file: (samples, INDEX) for file, samples in alike.items()}
        told |= _told_beside([file for file in unread if file not in told])
        if left := [file for file in unread if file not in told]:
            each = _bytes_a_sample(left, {file: number for file, (number, _) in (*read.items(), *told.items())})
            told |= {file: (max(1, round(file.size / each)), ESTIMATE) for file in left}
    known = [(read[file][0], HEADERS) if file in read else told[file] for file in files]
    slots, said_by = np.array(known, np.int64).reshape(-1, 2).T
    return Counts(tuple(files), slots, said_by, [passed_over for _, passed_over in read.values() if passed_over])


def _read(
    files: Sequence[File],
    unread: Sequence[File],
    read: dict[File, tuple[int, dict[str, PassedOver]]],
    faults: list[str] | None,
) -> set[File]:
    """Read the headers of shards, several at once, into `read`; the broken ones. Raises UserError that names these."""
    broken: dict[File, str] = {}

    def look(file: File) -> None:
        try:
            contents = contents_of(file)
            read[file] = len(contents.samples), contents.passed_over
        except UserError as error:
            broken[file] = str(error)

    _each(look, unread, "reading the shards' headers", 8)
    said = sorted(broken.values())
    if broken and (faults is None or len(broken) == len(files)):
        more = f"\nand {len(said) - LISTED:,} more shards" if len(said) > LISTED else ""
        others = f"\n{SKIP_BROKEN} after the path reads the other shards" if len(said) < len(files) else ""
        raise UserError("\n".join(said[:LISTED]) + more + others)
    if faults is not None:
        faults += said
    return set(broken)


def _told_beside(files: Sequence[File]) -> dict[File, tuple[int, int]]:
    """What stands beside shards says how many samples they hold, where anything stands there."""
    told = dict[File, tuple[int, int]]()
    for said_by, ask in ((STATS, _by_stats), (PARQUET, _by_parquet)):
        asked = [file for file in files if file not in told]
        probes = _spread(asked, PROBES)
        if any(ask(file) is not None for file in probes):  # else a store would be asked thousands of times for nothing
            answers = _each(ask, asked, "counting the shards' samples", AT_ONCE)
            told |= {file: (number, said_by) for file, number in zip(asked, answers, strict=True) if number is not None}
    return told


def _by_stats(file: File) -> int | None:
    """The successes that img2dataset counted when it wrote the shard."""
    raw = small_file(_beside(file, "_stats.json"))
    try:
        stats = json.loads(raw) if raw is not None else None
    except ValueError:
        return None
    return _believed(stats.get("successes"), file) if isinstance(stats, dict) else None


def _by_parquet(file: File) -> int | None:
    """The rows of img2dataset's table that it could fetch; all rows where it does not say."""
    parquet = needed("pyarrow.parquet", "parquet")
    address = _beside(file, ".parquet")
    try:
        with File(address, 0, "").open() as stream, parquet.ParquetFile(stream) as table:
            if "status" not in table.schema_arrow.names:
                return _believed(table.metadata.num_rows, file)
            status = table.read(columns=["status"], use_threads=False).column("status")
            return _believed(status.to_pylist().count("success"), file)
    except Exception:  # not there, not parquet, no network: then it is not known
        return None


def _beside(file: File, ending: str) -> str:
    return file.address.removesuffix(".tar") + ending


def _believed(number: object, file: File) -> int | None:
    """A number that a file of this size can hold: each sample has one header at least."""
    return number if type(number) is int and 0 <= number <= file.size // BLOCK else None


def _bytes_a_sample(files: Sequence[File], known: Mapping[File, int]) -> float:
    """Bytes of a shard for each of its samples, from the beginnings of a few, or those of known ones where all are broken.

    Raises UserError where nothing can be read.
    """
    found, fault = list[tuple[int, int]](), None
    for file in _spread(files, PROBES):
        try:
            found.append(first_samples(file, HEAD))
        except UserError as error:
            fault = error
    if not any(samples for samples, _ in found):
        found = [(number, file.size) for file, number in known.items()]
    samples, size = (sum(numbers) for numbers in zip(*found, strict=True)) if found else (0, 0)
    if not samples:
        raise fault or UserError(f"{files[0].address}: no pictures with words in it; expected KEY.jpg and KEY.txt or KEY.json")
    return size / samples


def _spread(files: Sequence[Item], most: int) -> list[Item]:
    """At most so many, evenly apart."""
    few = min(len(files), most)
    return [files[(2 * number + 1) * len(files) // (2 * few)] for number in range(few)]


def _each(ask: Callable[[Item], Answer], items: Sequence[Item], what: str, at_once: int) -> list[Answer]:
    """The answer of each, several asked at once, with a bar for people."""
    console = Console(stderr=True)
    with ThreadPoolExecutor(at_once) as pool:
        answers = pool.map(ask, items)
        return list(track(answers, what, len(items), console=console, transient=True, disable=not console.is_terminal))
