"""WebDataset shards, as img2dataset writes them: tar files of pictures with their words beside them, `KEY.jpg` and `KEY.txt`.

A shard's headers are read when the first of its samples is needed, so thousands open as quickly as a few. Until then its
number of samples may be what others say of it, or an estimate: as many *slots* as that, each of which shows a sample.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mplug_owl.data.sources import read_ahead
from mplug_owl.data.sources.files import File, find, is_remote, say_once, skip_broken
from mplug_owl.data.sources.records import decode, describe, parse_json
from mplug_owl.data.sources.shard_contents import MISSING, PICTURES, Contents, Member, contents_of, summed
from mplug_owl.data.sources.shard_counts import ESTIMATE, PINNED, SAID_BY, Counts, count
from mplug_owl.errors import BadSample, UserError

# Picture and words are fetched at once where no more than this lies between them.
NEAR = 64 * 1024


class Shards:
    """The samples of many shards. Holds the shards' names and how many slots each has, nothing else.

    `blocks` [shards] is the number of slots of each shard. Of a shard that holds n samples, slot j shows sample j mod n: the
    sample itself where the number is right. Where there are fewer slots than samples, the last samples have none; where
    there are more, the first samples have two.

    Args:
        files: The shards.
        faults: Where broken shards are to be written down and left out; None refuses them.
        most: How many shards that nobody has read are read now; None for a few, as `count` has it.

    Raises:
        UserError: Shards are broken, or there is no sample in any.
    """

    def __init__(self, files: Sequence[File], faults: list[str] | None = None, most: int | None = None) -> None:
        counts = count(files, faults, most)
        self.found, self.skips = tuple(files), faults is not None
        self.folder = Path(files[0].address).parent
        self.passed_over = summed(counts.passed_over)
        self._take(counts)
        if not len(self):
            others = f"; {self.passed_over}" if self.passed_over else ""
            raise UserError(
                f"{files[0].address}: no pictures with words in it; expected KEY.jpg and KEY.txt or KEY.json{others}"
            )

    def _take(self, counts: Counts) -> None:
        self.files, self.blocks, self.said_by = counts.files, counts.slots, counts.said_by
        self.ends = np.cumsum(self.blocks)
        self._surprised, self._faults = False, dict[int, str]()

    @property
    def is_exact(self) -> bool:
        """Whether every shard's headers have been read, so that slots are samples."""
        return not self.said_by.any()

    def with_slots(self, addresses: Sequence[str], blocks: np.ndarray) -> "Shards":
        """These shards with so many slots each, as a run counted them that is resumed; the same object where they have them.

        Raises UserError where one is not there any more.
        """
        if addresses == [file.address for file in self.files] and np.array_equal(blocks, self.blocks):
            return self
        there = {os.path.realpath(file.address): number for number, file in enumerate(self.found)}  # as runs had links before
        there |= {file.address: number for number, file in enumerate(self.found)}
        if gone := [address for address in addresses if address not in there]:
            others = f", nor {len(gone) - 1:,} more of its shards" if len(gone) > 1 else ""
            raise UserError(f"{gone[0]}: the run began with this shard and it is not there{others}")
        known = {
            file.address: (int(slots), int(by)) for file, slots, by in zip(self.files, self.blocks, self.said_by, strict=True)
        }
        said_by = [
            by if slots == now else PINNED
            for (now, by), slots in zip((known.get(address, (-1, PINNED)) for address in addresses), blocks, strict=True)
        ]
        pinned = copy(self)
        files = tuple(self.found[there[address]] for address in addresses)
        pinned._take(Counts(files, np.asarray(blocks, np.int64), np.array(said_by), ()))
        return pinned

    def read_through(self) -> "Shards":
        """The same with every shard's headers read now. Raises UserError where one is broken."""
        return self if self.is_exact else Shards(self.found, [] if self.skips else None, most=len(self.found))

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
        shard, slot = self.slot(index)
        try:
            file, key, picture, words = self._find(index)
        except (BadSample, UserError):  # whoever reads it hears why
            return f"{self.files[shard].name}, slot {slot}"
        return f"{file.name}, {key}.{(picture if picture is not MISSING else words).ending}"

    def expect(self, indices: Iterable[int], nearby: bool) -> None:
        """Begin to fetch samples that will be read soon, where shards are in a store; see `read_ahead.expect`.

        Shards whose contents are not known yet are opened by threads, and their samples fetched after that.
        """
        if not is_remote(self.files[0].address):
            return
        wanted: dict[int, list[int]] = {}
        for index in indices:
            wanted.setdefault(self.slot(index)[0], []).append(index)
        known = list[int]()
        for shard, samples in wanted.items():
            opened = read_ahead.prepared(self.files[shard].key, partial(self._open, shard))
            if opened.done():
                known += samples
            else:
                opened.add_done_callback(partial(self._expect_after, samples, nearby))
        read_ahead.expect((span for index in known for span in self._spans(index)), nearby)

    def _open(self, shard: int) -> None:
        with contextlib.suppress(BadSample, UserError):  # whoever reads it hears why
            self._contents(shard)

    def _expect_after(self, indices: list[int], nearby: bool, opened: object) -> None:
        read_ahead.expect((span for index in indices for span in self._spans(index)), nearby)

    def _spans(self, index: int) -> Iterator[read_ahead.Span]:
        with contextlib.suppress(BadSample, UserError):  # whoever reads it hears why
            file, _, picture, words = self._find(index)
            if MISSING not in (picture, words):
                yield from (read_ahead.Span(file, start, end) for start, end in _stretches(picture, words))

    def slot(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and the slot in it."""
        shard = int(np.searchsorted(self.ends, index, side="right"))
        return shard, index - int(self.ends[shard]) + int(self.blocks[shard])

    def row(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and its row in the shard's contents, which are read if they are not known yet.

        Raises:
            UserError: The shard is broken. Where broken ones are to be left out, BadSample.
        """
        shard, slot = self.slot(index)
        samples = len(self._contents(shard).samples)
        if not samples:
            raise BadSample(f"{self.files[shard].name}: no pictures with words in it")
        self._compare(shard, samples)
        return shard, slot % samples

    def _compare(self, shard: int, samples: int) -> None:
        """Say once that what stands beside the shards is wrong. Of estimates nobody expects anything else."""
        slots, said_by = int(self.blocks[shard]), int(self.said_by[shard])
        if said_by not in SAID_BY or samples == slots or self._surprised:
            return
        self._surprised = True
        more, name = samples - slots, self.files[shard].name
        shown = f"its last {more:,} are not shown" if more > 0 else f"its first {-more:,} are shown again"
        say_once(f"{name}: holds {samples:,} samples where {SAID_BY[said_by]} {slots:,}; {shown}, and so on in others")

    def _find(self, index: int) -> tuple[File, str, Member, Member]:
        shard, row = self.row(index)
        file = self.files[shard]
        key, *members = self._contents(shard).samples[row].item()
        picture, words = (
            Member(ending.decode(), start, end) if start else MISSING for ending, start, end in (members[:3], members[3:])
        )
        return file, key.decode("utf-8", "replace"), picture, words

    def _contents(self, shard: int) -> Contents:
        fault = self._faults.get(shard)
        try:
            if fault is None:
                return contents_of(self.files[shard])
        except UserError as error:
            fault = self._faults[shard] = str(error)
        raise BadSample(f"left out: {fault}") if self.skips else UserError(fault)


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
    if estimated := int((shards.said_by == ESTIMATE).sum()):
        say_once(f"{path}: how many samples {estimated:,} of {len(shards.files):,} shards hold is estimated by their sizes")
    return shards


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
