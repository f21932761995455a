"""WebDataset shards, as img2dataset writes them: tar files of pictures with their words beside them, `KEY.jpg` and `KEY.txt`.

The headers of a shard are read once and what they say is kept in the user's cache, so a sample is one stretch of bytes at a
known position: any order is as good as another, and no shard is unpacked or loaded.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from mplug_owl.data.sources import read_ahead
from mplug_owl.data.sources.files import SKIP_BROKEN, File, cache_folder, find, is_remote, say_once, skip_broken
from mplug_owl.data.sources.records import decode, describe, parse_json
from mplug_owl.data.sources.tar import Entry, tars
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import shortened
from mplug_owl.writing import replacing

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "heif")
# JSON last: img2dataset writes the caption into both, and the rest of the JSON is about the download.
WORDS = ("txt", "text", "caption", "json")
# Broken shards named in one error.
LISTED = 5
# Picture and words are fetched at once where no more than this lies between them.
NEAR = 64 * 1024
# How what is kept about a shard is laid out. Another number has every shard read anew.
LAYOUT = 2


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


class Shards:
    """The samples of many shards. Holds the shards' names and how many samples each has, nothing else.

    Args:
        files: The shards.
        faults: Where broken shards are to be written down and left out; None refuses them.

    Raises:
        UserError: Shards are broken, or there is no sample in any.
    """

    def __init__(self, files: Sequence[File], faults: list[str] | None = None) -> None:
        counts = _counts(files, faults)
        self.files = tuple(file for file, count in zip(files, counts, strict=True) if count is not None)
        self.folder = Path(files[0].address).parent
        self.ends = np.cumsum([count for count in counts if count is not None])
        self.passed_over = _summed([contents_of(file).passed_over for file in self.files])
        if not len(self):
            others = f"; {self.passed_over}" if self.passed_over else ""
            raise UserError(
                f"{files[0].address}: no pictures with words in it; expected KEY.jpg and KEY.txt or KEY.json{others}"
            )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image`, the picture's bytes, and `caption`, or what the JSON file holds where there is no text."""
        file, key, picture, words = self._find(index)
        if picture is MISSING:
            raise BadSample(f"{self.location(index)}: no picture beside it ({', '.join(PICTURES)})")
        if words is MISSING:
            raise BadSample(f"{self.location(index)}: no {key}.txt or {key}.json beside it")
        image, text = _bytes(file, picture, words)
        try:
            said = decode(text)
            record = parse_json(said) if words.ending == "json" else {"caption": said}
        except BadSample as error:
            raise BadSample(f"{file.name}, {key}.{words.ending}: {error}") from None
        if not isinstance(record, dict):
            raise BadSample(f"{file.name}, {key}.{words.ending}: {describe(record)}; expected an object with a caption")
        return {**record, "image": image}

    def location(self, index: int) -> str:
        """Shard and member: `00003.tar, 000030017.jpg`."""
        file, key, picture, words = self._find(index)
        return f"{file.name}, {key}.{(picture if picture is not MISSING else words).ending}"

    def expect(self, indices: Iterable[int], nearby: bool) -> None:
        """Begin to fetch samples that will be read soon, where shards are in a store; see `read_ahead.expect`."""
        if is_remote(self.files[0].address):
            read_ahead.expect((span for index in indices for span in self._spans(index)), nearby)

    def _spans(self, index: int) -> Iterator[read_ahead.Span]:
        file, _, picture, words = self._find(index)
        if MISSING not in (picture, words):
            yield from (read_ahead.Span(file, start, end) for start, end in _stretches(picture, words))

    def _find(self, index: int) -> tuple[File, str, Member, Member]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        file = self.files[shard]
        table = contents_of(file).samples
        key, *members = table[index - int(self.ends[shard]) + len(table)].item()
        picture, words = (
            Member(ending.decode(), start, end) if start else MISSING for ending, start, end in (members[:3], members[3:])
        )
        return file, key.decode("utf-8", "replace"), picture, words


def open_shards(pattern: str) -> Shards:
    """The samples of the shards of a path, a folder, a pattern or an address.

    `#skip-broken` after it leaves out broken shards. What is left out or passed over is said once. Raises UserError that
    names the broken shards.
    """
    path, faults = skip_broken(pattern)
    shards = Shards(find(path, ".tar", faults), faults)
    for fault in faults or ():
        say_once(f"left out: {fault}")
    if shards.passed_over:
        say_once(f"{path}: {shards.passed_over}")
    return shards


@lru_cache(maxsize=1024)
def contents_of(file: File) -> Contents:
    """Where the samples of a shard are, mapped from the cache; read from the shard's headers the first time.

    Raises:
        UserError: The shard is broken.
    """
    kept = cache_folder() / f"{file.key}-{LAYOUT}.npy"
    notes = kept.with_suffix(".json")
    try:
        told = {reason: PassedOver(*one) for reason, one in json.loads(notes.read_bytes()).items()}
        return Contents(np.load(kept, mmap_mode="r"), told)
    # Not there yet, or a machine went down while it was written.
    except (OSError, ValueError, EOFError, TypeError, AttributeError):
        pass
    contents = _read(file)
    try:
        with replacing(kept) as part, part.open("wb") as out:
            np.save(out, contents.samples)
        with replacing(notes) as part:
            part.write_text(json.dumps(contents.passed_over), "utf-8")
    except OSError:  # the disk is full, which makes it slow and not wrong
        return contents
    return Contents(np.load(kept, mmap_mode="r"), contents.passed_over)


def _counts(files: Sequence[File], faults: list[str] | None) -> list[int | None]:
    """How many samples each shard has, several shards at once; None for one that is broken."""
    console = Console(stderr=True)
    broken: list[str] = []

    def count(file: File) -> int | None:
        try:
            return len(contents_of(file).samples)
        except UserError as error:
            broken.append(str(error))
            return None

    with ThreadPoolExecutor(8) as pool:
        counts = list(
            track(
                pool.map(count, files),
                "reading the shards' headers",
                len(files),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )
    if broken and (faults is None or len(broken) == len(files)):
        more = f"\nand {len(broken) - LISTED:,} more shards" if len(broken) > LISTED else ""
        others = f"\n{SKIP_BROKEN} after the path reads the other shards" if len(broken) < len(files) else ""
        raise UserError("\n".join(sorted(broken)[:LISTED]) + more + others)
    if faults is not None:
        faults += sorted(broken)
    return counts


def _bytes(file: File, picture: Member, words: Member) -> tuple[bytes, bytes]:
    """The picture and its words, by one request where they lie side by side."""
    parts = {start: file.read(start, end) for start, end in _stretches(picture, words)}
    if len(parts) == 2:
        return parts[picture.start], parts[words.start]
    ((first, raw),) = parts.items()
    image, text = (raw[member.start - first : member.end - first] for member in (picture, words))
    return image, text


def _stretches(picture: Member, words: Member) -> list[tuple[int, int]]:
    """The first byte and the byte after the last of each request that a sample takes: one, or two where its files lie apart."""
    first, second = sorted((picture, words), key=lambda member: member.start)
    if second.start - first.end > NEAR:
        return [(first.start, first.end), (second.start, second.end)]
    return [(first.start, second.end)]


# What is in a shard

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


def _read(file: File) -> Contents:
    """What a shard holds, by its headers."""
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
    span = [("ending", "S7"), ("start", "u8"), ("end", "u8")]
    fields = [("key", f"S{widest}"), *[(f"{kind}_{name}", of) for kind in ("picture", "words") for name, of in span]]
    return Contents(np.array(rows, dtype=fields), passing.counts)


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


def _summed(shards: Sequence[dict[str, PassedOver]]) -> str:
    """What is passed over in all shards, in one line; empty where nothing is."""
    sums: dict[str, PassedOver] = {}
    for shard in shards:
        for reason, (number, example) in shard.items():
            before, first = sums.get(reason, (0, example))
            sums[reason] = PassedOver(before + number, first)
    whole = sum(one.number for one in sums.values())
    reasons = ", ".join(f"{one.number:,} {reason} ({shortened(one.example)})" for reason, one in sums.items())
    return f"passed over {whole:,} file{'s' * (whole != 1)}: {reasons}" if sums else ""
