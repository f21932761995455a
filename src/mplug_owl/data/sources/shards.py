"""WebDataset shards, as img2dataset writes them: tar files of pictures with their words beside them, `KEY.jpg` and `KEY.txt`.

The headers of a shard are read once and what they say is kept in the user's cache, so a sample is one stretch of bytes at a
known place: any order is as good as another, and no shard is unpacked or loaded.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from mplug_owl.data.sources.files import File, cache_folder, find
from mplug_owl.data.sources.records import decode, describe, parse_json

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
# Txt before JSON: img2dataset writes the caption into both, and the rest of the JSON is about the download.
WORDS = ("txt", "json")
# Broken shards named in one error.
LISTED = 5


class Member(NamedTuple):
    """One file in a shard: its ending and where its bytes are. A missing one starts at 0, where only a header can be."""

    ending: str = ""
    start: int = 0
    end: int = 0


MISSING = Member()


class Shards:
    """The samples of many shards. Holds the shards' names and how many samples each has, nothing else."""

    def __init__(self, files: Sequence[File]) -> None:
        self.files = tuple(files)
        self.folder = Path(files[0].address).parent
        self.ends = np.cumsum(_counts(files))
        if not len(self):
            raise ValueError(f"{files[0].address}: no pictures with words in it; expected KEY.jpg and KEY.txt or KEY.json")

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image`, the picture's bytes, and `caption`, or what the JSON file holds where there is no text."""
        file, key, picture, words = self._find(index)
        if picture is MISSING:
            raise ValueError(f"{self.location(index)}: no picture beside it ({', '.join(PICTURES)})")
        if words is MISSING:
            raise ValueError(f"{self.location(index)}: no {key}.txt or {key}.json beside it")
        start = min(picture.start, words.start)
        raw = file.read(start, max(picture.end, words.end))
        image, text = (raw[member.start - start : member.end - start] for member in (picture, words))
        try:
            said = decode(text)
            record = parse_json(said) if words.ending == "json" else {"caption": said}
            if not isinstance(record, dict):
                raise ValueError(f"{describe(record)}; expected an object with a caption")
        except ValueError as error:
            raise ValueError(f"{file.name}, {key}.{words.ending}: {error}") from None
        return {**record, "image": image}

    def location(self, index: int) -> str:
        """Shard and member: `00003.tar, 000030017.jpg`."""
        file, key, picture, words = self._find(index)
        return f"{file.name}, {key}.{(picture if picture is not MISSING else words).ending}"

    def _find(self, index: int) -> tuple[File, str, Member, Member]:
        shard = int(np.searchsorted(self.ends, index, side="right"))
        file = self.files[shard]
        table = table_of(file)
        key, *members = table[index - int(self.ends[shard]) + len(table)].item()
        picture, words = (
            Member(ending.decode(), start, end) if start else MISSING for ending, start, end in (members[:3], members[3:])
        )
        return file, key.decode("utf-8", "replace"), picture, words


def open_shards(pattern: str) -> Shards:
    """The samples of the shards of a path, a folder, a pattern or an address."""
    return Shards(find(pattern, ".tar"))


@lru_cache(maxsize=1024)
def table_of(file: File) -> np.ndarray:
    """Where the samples of a shard are, mapped from the cache; read from the shard's headers the first time."""
    kept = cache_folder() / f"{file.key}.npy"
    if not kept.exists():
        part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
        with part.open("wb") as out:
            np.save(out, _table(list(_samples(file))))
        part.replace(kept)
    return np.load(kept, mmap_mode="r")


def _counts(files: Sequence[File]) -> list[int]:
    """How many samples each shard has, several shards at once. Raises ValueError that names the broken ones."""
    console = Console(stderr=True)
    broken: list[str] = []

    def count(file: File) -> int:
        try:
            return len(table_of(file))
        except ValueError as error:
            broken.append(str(error))
            return 0

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
    if broken:
        more = f"\nand {len(broken) - LISTED:,} more shards" if len(broken) > LISTED else ""
        raise ValueError("\n".join(sorted(broken)[:LISTED]) + more)
    return counts


def _table(samples: Sequence[tuple[str, Member, Member]]) -> np.ndarray:
    rows = [(key.encode("utf-8", "surrogateescape"), *picture, *words) for key, picture, words in samples]
    widest = max((len(row[0]) for row in rows), default=1)
    place = [("ending", "S4"), ("start", "u8"), ("end", "u8")]
    fields = [("key", f"S{widest}"), *[(f"{kind}_{name}", of) for kind in ("picture", "words") for name, of in place]]
    return np.array(rows, dtype=fields)


def _samples(file: File) -> Iterator[tuple[str, Member, Member]]:
    """Neighbours whose names are alike up to the first dot, as WebDataset groups them."""
    key, members = "", dict[str, Member]()
    for name, start, end in _members(file):
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        ending = ending.lower()
        if not stem or ending not in (*PICTURES, *WORDS):
            continue
        if folder + slash + stem != key or ending in members:
            if members:
                yield key, _first(members, PICTURES), _first(members, WORDS)
            key, members = folder + slash + stem, {}
        members[ending] = Member(ending, start, end)
    if members:
        yield key, _first(members, PICTURES), _first(members, WORDS)


def _first(members: dict[str, Member], endings: Sequence[str]) -> Member:
    return next((members[ending] for ending in endings if ending in members), MISSING)


def _members(file: File) -> Iterator[tuple[str, int, int]]:
    """Every file in a shard. Raises ValueError where the shard ends too early or is damaged: tarfile only stops there."""
    end = 0
    with file.open() as stream:
        if stream.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7"):
            raise ValueError(f"{file.address}: a compressed tar file has no places to go to; unpack it to .tar")
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    end = member.offset_data + (member.size if member.isfile() else 0)
                    if end > file.size:
                        break
                    if member.isfile():
                        yield member.name, member.offset_data, end
        except (tarfile.TarError, ValueError) as error:
            if not end:
                raise ValueError(f"{file.address}: not a tar file ({error})") from None
        after = -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        stream.seek(after)
        if end > file.size or stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{file.address}: damaged or cut short at byte {min(after, file.size):,}; fetch it anew")
