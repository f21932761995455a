"""What is in a shard: where the picture and the words of each sample lie, by the headers of the tar file.

It is read once and kept in the user's cache, so a sample is one stretch of bytes at a known position.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mplug_owl.data.sources.files import File, cache_folder
from mplug_owl.data.sources.shard_index import PassedOverFiles, indexed, indexed_counts, row_type
from mplug_owl.data.sources.store import PATIENCE
from mplug_owl.data.sources.tar import BLOCK, Entry, first_entries, tars
from mplug_owl.model.images import shortened
from mplug_owl.writing import locked, replacing

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "heif")
# JSON last: img2dataset writes the caption into both, and the rest of the JSON is about the download.
WORDS = ("txt", "text", "caption", "json")
# How what is kept about a shard is laid out. Another number has every shard read anew.
LAYOUT = 2
# Shards whose contents a process holds. Each one that is mapped takes a file handle, and a process often has 1,024.
HELD = 256
# Times that threads may clash over one header.
CLASHES = 20


class Member(NamedTuple):
    """One file in a shard: its ending and where its bytes are. A missing one starts at 0, where only a header can be."""

    ending: str = ""
    start: int = 0
    end: int = 0


MISSING = Member()


class PassedOver(NamedTuple):
    """Files of a shard that belong to no sample for the same reason, and the name of one."""

    number: int
    example: str


class Contents(NamedTuple):
    """What a shard holds: a row for each sample, and what is passed over by the reason."""

    samples: np.ndarray
    passed_over: dict[str, PassedOver]


@lru_cache(maxsize=HELD)
def contents_of(file: File) -> Contents:
    """Where the samples of a shard are, mapped from the cache; read from the shard's headers the first time.

    Raises:
        UserError: The shard is broken.
    """
    return _mapped(file) or _by_index(file) or _read_once(file)


def _mapped(file: File) -> Contents | None:
    kept, notes = _kept(file)
    try:
        return Contents(_load(kept), _notes(notes))
    # Not there yet, or a machine went down while it was written.
    except (OSError, ValueError, EOFError, TypeError, AttributeError):
        return None


def _load(kept: Path) -> np.ndarray:
    """Map an array. Python 3.11 counts how deep it parses for all threads together (gh-106905), so a few of them may clash
    over numpy's header; then they try again.
    """
    for _ in range(CLASHES):
        with contextlib.suppress(SystemError):
            return np.load(kept, mmap_mode="r")
    return np.load(kept, mmap_mode="r")


def _read_once(file: File) -> Contents:
    """Read the headers; wait where another thread or process of this machine is reading them."""
    lock = _kept(file)[0].with_suffix(".lock")
    try:
        with locked(lock, PATIENCE):  # never free in that time, it is read twice
            return _mapped(file) or _read_and_keep(file)
    except OSError:  # no lock can be had, on a full disk perhaps
        return _read_and_keep(file)
    finally:
        lock.unlink(missing_ok=True)  # who still waits for it finds the contents


def _read_and_keep(file: File) -> Contents:
    (kept, notes), contents = _kept(file), read_contents(file)
    try:
        notes.unlink(missing_ok=True)
        if contents.passed_over:
            with replacing(notes) as part:
                part.write_text(json.dumps(contents.passed_over), "utf-8")
        with replacing(kept) as part, part.open("wb") as out:
            np.save(out, contents.samples)
    except OSError:  # the disk is full, which makes it slow and not wrong
        return contents
    return Contents(_load(kept), contents.passed_over)


def look(file: File) -> Contents:
    """What is in a shard, from the cache, an index or its headers; nothing is kept. Raises UserError where it is broken."""
    return _mapped(file) or _by_index(file) or read_contents(file)


def _by_index(file: File) -> Contents | None:
    if (found := indexed(file)) is None:
        return None
    samples, passed_over = found
    return Contents(samples, _passed_over(passed_over))


def read_counts(files: Sequence[File]) -> tuple[dict[File, tuple[int, dict[str, PassedOver]]], dict[File, int]]:
    """How many samples those shards hold whose headers we have read, with what is passed over in them.

    The second is of those that an index has in this size but of another time, such as copies.
    """
    read, alike = kept_counts(files), dict[File, int]()
    for file, found in indexed_counts(file for file in files if file not in read).items():
        if found.is_same:
            read[file] = found.samples, _passed_over(found.passed_over)
        else:
            alike[file] = found.samples
    return read, alike


def kept_counts(files: Iterable[File]) -> dict[File, tuple[int, dict[str, PassedOver]]]:
    """How many samples those shards hold whose contents are in the cache, and what is passed over in them."""
    there, counts = {path.name for path in cache_folder().iterdir()}, dict[File, tuple[int, dict[str, PassedOver]]]()
    for file in files if there else ():
        kept, notes = _kept(file)
        if kept.name not in there:
            continue
        try:
            with kept.open("rb") as stream:
                np.lib.format.read_magic(stream)
                (samples,), _, _ = np.lib.format.read_array_header_1_0(stream)
            counts[file] = samples, _notes(notes) if notes.name in there else {}
        except (OSError, ValueError, EOFError, TypeError, AttributeError):
            continue
    return counts


def _kept(file: File) -> tuple[Path, Path]:
    """Where a shard's contents are kept, and what is passed over in it."""
    name = f"{file.key}-{LAYOUT}"
    return cache_folder() / f"{name}.npy", cache_folder() / f"{name}.json"


def _notes(path: Path) -> dict[str, PassedOver]:
    try:
        return _passed_over(json.loads(path.read_bytes()))
    except FileNotFoundError:  # nothing is
        return {}


def _passed_over(values: PassedOverFiles) -> dict[str, PassedOver]:
    return {reason: PassedOver(*one) for reason, one in values.items()}


# By its headers

_HIDDEN = "hidden"
_OTHERS = "neither pictures nor words"
_LINKS = "links"
_SPARE = "a second picture or text of their sample"
_LONE = "without a picture or words of their whole name"


class Passing:
    """Counts the files of a shard that belong to no sample."""

    def __init__(self) -> None:
        self.counts: dict[str, PassedOver] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one more."""
        number, example = self.counts.get(reason, (0, name))
        self.counts[reason] = PassedOver(number + 1, example)


def read_contents(file: File) -> Contents:
    """What a shard holds, by its headers. Raises UserError where it is broken."""
    passing = Passing()
    groups = [group for tar in tars(file) for group in _joined(_grouped(tar, passing))]
    rows = []
    for key, members in groups:
        picture, words = _first(members, PICTURES), _first(members, WORDS)
        dotted = "." in key.rpartition("/")[2]
        used = {picture.ending, words.ending, "json"}
        for ending in members:
            if dotted and MISSING in (picture, words):
                passing.add(_LONE, f"{key}.{ending}")
            elif ending not in used:
                passing.add(_SPARE, f"{key}.{ending}")
        if not dotted or MISSING not in (picture, words):
            rows.append((key.encode("utf-8", "surrogateescape"), *picture, *words))
    widest = max((len(row[0]) for row in rows), default=1)
    return Contents(np.array(rows, dtype=row_type(widest)), passing.counts)


Group = tuple[str, dict[str, Member]]


def _grouped(files: Iterable[Entry], passing: Passing) -> list[Group]:
    """Pictures and words of the same whole name. They are neighbours: WebDataset's samples are alike up to the first dot.

    The same file a second time begins another sample.
    """
    groups, near, prefix = list[Group](), dict[str, dict[str, Member]](), ""
    for name, start, end in files:
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.rpartition(".")
        ending = ending.lower()
        if base.startswith("."):
            passing.add(_HIDDEN, name)
        elif not stem or ending not in (*PICTURES, *WORDS):
            passing.add(_OTHERS, name)
        elif not start:
            passing.add(_LINKS, name)
        else:
            key, begins = folder + slash + stem, folder + slash + base.partition(".")[0]
            if begins != prefix or ending in near.get(key, {}):
                groups += near.items()
                near, prefix = {}, begins
            near.setdefault(key, {})[ending] = Member(ending, start, end)
    return [*groups, *near.items()]


def _joined(groups: list[Group]) -> list[Group]:
    """The groups, a picture joined with words that stand elsewhere in the shard if nothing else has their name."""
    alike: dict[str, list[dict[str, Member]]] = {}
    for key, members in groups:
        if MISSING in (_first(members, PICTURES), _first(members, WORDS)):
            alike.setdefault(key, []).append(members)
    whole = {key for key, members in groups if key in alike and not any(members is lone for lone in alike[key])}
    for key, halves in alike.items():
        if len(halves) == 2 and key not in whole and not halves[0].keys() & halves[1].keys():
            halves[0].update(halves[1])
            halves[1].clear()
    return [(key, members) for key, members in groups if members]


def _first(members: dict[str, Member], endings: Sequence[str]) -> Member:
    return next((members[ending] for ending in endings if ending in members), MISSING)


def summed(shards: Iterable[dict[str, PassedOver]]) -> str:
    """What is passed over in all shards, in one line; empty where nothing is."""
    sums: dict[str, PassedOver] = {}
    for shard in shards:
        for reason, (number, example) in shard.items():
            before, first = sums.get(reason, (0, example))
            sums[reason] = PassedOver(before + number, first)
    whole = sum(one.number for one in sums.values())
    reasons = ", ".join(f"{one.number:,} {reason} ({shortened(one.example)})" for reason, one in sums.items())
    return f"passed over {whole:,} file{'s' * (whole != 1)}: {reasons}" if sums else ""


def first_samples(file: File, head: int) -> tuple[int, int]:
    """How many samples begin in the first bytes of a shard, and the bytes that they take.

    The whole shard is read where its headers are no plain ones. Raises UserError where it is broken.
    """
    entries = first_entries(file.read(0, min(head, file.size)))
    groups = [members for _, members in _joined(_grouped(entries, Passing()))]
    if file.size <= head or len(groups) < 2:
        return len(contents_of(file).samples), file.size
    last = max(min(member.start for member in members.values()) for members in groups)
    return len(groups) - 1, last - BLOCK
