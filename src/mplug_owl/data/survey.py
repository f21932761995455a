"""What is known of sources before a run: what is broken, whether they show pictures, how long their samples are.

A `Survey` is made once and reads each record once. Pictures are opened where records are checked, nowhere else.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mplug_owl.conversation import Conversation, Picture
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.mixture import SampleId
from mplug_owl.data.sources import Source, check
from mplug_owl.data.sources.source import in_turn
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.processor import MplugOwlProcessor

# Larger sources are not read through before a run. What is broken in them is found, and quarantined, as it comes.
READ_THROUGH = 5000
# Conversations of a larger source that are looked at for pictures.
LOOKED_AT = 256
# Records of each source by which `max_tokens` is judged.
LOOKED_FOR_CUTS = 100
# A source is measured until its mean is known to this share of itself, one standard error: captions take about a thousand.
ERROR = 0.002
BLOCK = 256
MOST = 16_384


@dataclass(frozen=True)
class Lengths:
    """Positions and pictures of a sample, on average, and how many samples that was measured on."""

    tokens: float
    pictures: float
    measured: int


@dataclass(frozen=True)
class Cut:
    """Of so many examples of a source: how many are cut at `max_tokens`, have nothing left to learn, and show a picture."""

    source: str
    examples: int
    cut: int
    empty: int
    pictured: int


class Survey:
    """Sources mixed by these weights, and what is known of them. None as a weight stands for a source's size."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float | None] | None = None) -> None:
        self.sources = list(sources)
        self.weights = list(weights) if weights is not None else [None] * len(self.sources)
        self._readers = [_Reader(source) for source in self.sources]

    @cached_property
    def sizes(self) -> list[int]:
        """How many records each source has."""
        return [len(source) for source in self.sources]

    @cached_property
    def blocks(self) -> list[np.ndarray | None]:
        """The sizes of each source's blocks, None for one without: `order="blocks"` leaves it in random order."""
        return [getattr(source, "blocks", None) for source in self.sources]

    @property
    def checked(self) -> int:
        """How many records are checked: those of sources of at most `READ_THROUGH`."""
        return sum(size for size in self.sizes if size <= READ_THROUGH)

    @cached_property
    def problems(self) -> list[str]:
        """A sentence about everything that is wrong with the records that are checked, their pictures included."""
        small = [reader for reader in self._readers if len(reader) <= READ_THROUGH]
        return [problem for reader in small for problem in check(_Afresh(reader))]

    @cached_property
    def pictured(self) -> list[float]:
        """The share of each source's conversations that show pictures, among those that can be read."""
        return [_pictured(reader) for reader in self._readers]

    def texts(self, count: int) -> Iterator[str]:
        """Every text of the first `count` records of each source that can be read."""
        for reader in self._readers:
            for index in in_turn(reader, range(min(len(reader), count))):
                with contextlib.suppress(BadSample):
                    yield from (piece.text for piece in reader[index].pieces() if piece.text is not None)

    def lengths(self, shares: Sequence[float], processor: MplugOwlProcessor, encoding: Encoding, seed: int) -> Lengths:
        """The mean sample where the sources make up these shares of the samples. One that cannot be read has no positions.

        A pure function of the seed and the data. Raises UserError where nothing can be read.
        """
        tokens, pictures, measured = 0.0, 0.0, 0
        read = Examples(self._readers, processor, encoding, seed)
        for number, share in enumerate(shares):
            rows = self._measured(read, number)
            if not rows.any():
                raise UserError(f"{self.sources[number].name}: none of {len(rows)} records can be read; see owl inspect")
            tokens += share * rows[:, 0].mean()
            pictures += share * rows[:, 1].mean()
            measured += len(rows)
        return Lengths(float(tokens), float(pictures), measured)

    def cuts(self, processor: MplugOwlProcessor, encoding: Encoding, seed: int) -> list[Cut]:
        """What `max_tokens` cuts of the first `LOOKED_FOR_CUTS` records of each source that can be read."""
        read, found = Examples(self._readers, processor, encoding, seed), []
        for number, reader in enumerate(self._readers):
            examples, pictured = [], 0
            for index in in_turn(reader, range(min(len(reader), LOOKED_FOR_CUTS))):
                with contextlib.suppress(BadSample):
                    examples.append(read[SampleId(number, 0, index)])
                    pictured += bool(reader[index].pictures)  # of the record: the example's own may be cut
            empty = sum(not any(example.loss_mask) for example in examples)
            found.append(Cut(reader.name, len(examples), sum(example.cut > 0 for example in examples), empty, pictured))
        return found

    def _measured(self, read: Examples, number: int) -> np.ndarray:
        """Positions and pictures [samples, 2] of samples drawn from one source, as many as it takes."""
        size = self.sizes[number]
        drawn = np.random.default_rng([read.seed, 4, number]).choice(size, min(size, MOST), replace=False)
        rows: list[tuple[int, int]] = []
        for index in in_turn(self._readers[number], drawn.tolist()):
            row = (0, 0)
            with contextlib.suppress(BadSample):
                example = read[SampleId(number, 0, index)]
                row = (len(example), len(example.pictures))
            rows.append(row)
            if len(rows) % BLOCK == 0:
                seen = np.array(rows)[:, 0]
                if 0 < seen.std() / len(rows) ** 0.5 < ERROR * seen.mean():
                    break
        return np.array(rows)


class _Reader:
    """A source whose records are read once. Of a picture inside a record it remembers that it is there, not its bytes."""

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, source.name
        self._kept: dict[int, Conversation | str] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Conversation:
        kept = self._kept.get(index)
        if kept is None:
            return self.read(index)
        if isinstance(kept, str):
            raise BadSample(kept)
        return kept

    def read(self, index: int) -> Conversation:
        """The record as it is, with its pictures."""
        try:
            conversation = self.source[index]
        except BadSample as error:
            self._keep(index, str(error))
            raise
        self._keep(index, _without_bytes(conversation))
        return conversation

    def expect(self, indices: Sequence[int], nearby: bool = False) -> None:
        """Those not read yet will be read soon."""
        self.expect_afresh([index for index in indices if index not in self._kept], nearby)

    def expect_afresh(self, indices: Sequence[int], nearby: bool = False) -> None:
        """These will be read soon, whether they were read before or not."""
        if (expect := getattr(self.source, "expect", None)) is not None:
            expect(indices, nearby)

    def _keep(self, index: int, record: Conversation | str) -> None:
        if len(self._kept) < READ_THROUGH:
            self._kept[index] = record


class _Afresh:
    """The same source for a check, which opens the pictures: every record is read now."""

    def __init__(self, reader: _Reader) -> None:
        self.reader, self.name, self.expect = reader, reader.name, reader.expect_afresh

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Conversation:
        return self.reader.read(index)


def _without_bytes(conversation: Conversation) -> Conversation:
    if all(isinstance(picture.source, (str, Path)) for picture in conversation.pictures):
        return conversation
    messages = tuple(
        replace(message, parts=tuple(Picture(b"") if isinstance(part, Picture) else part for part in message.parts))
        for message in conversation.messages
    )
    return replace(conversation, messages=messages)


def _pictured(reader: _Reader) -> float:
    """All records of a small source, or `LOOKED_AT` spread over a larger one."""
    size = len(reader)
    indices = range(size) if size <= READ_THROUGH else np.unique(np.linspace(0, size - 1, LOOKED_AT).astype(int))
    shown = []
    for index in in_turn(reader, list(map(int, indices))):
        with contextlib.suppress(BadSample):
            shown.append(bool(reader[index].pictures))
    return sum(shown) / max(1, len(shown))
