"""From sources to batches: the samples of each step, encoded, their pictures opened, padded and ready to learn from."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mplug_owl.data.encode import Example, encode
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import Source
from mplug_owl.model.images import open_image
from mplug_owl.model.processor import Encoded, MplugOwlProcessor

# A square of 224 pixels is 147 KiB, so this holds the pictures of a small data set and a laptop does not notice.
REMEMBERED_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Encoding:
    """How a conversation becomes tokens; see `encode`."""

    max_tokens: int
    learn: Literal["answers", "everything"] = "answers"
    pictures: bool = True
    style: Literal["owl", "original"] = "owl"


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes: ids, mask and labels [B, T], pixels [I, 3, S, S] where there are pictures."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor | None
    names: tuple[str, ...]
    cut: int

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors, by the names of the model's arguments."""
        tensors = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "labels": self.labels}
        return tensors if self.pixel_values is None else {**tensors, "pixel_values": self.pixel_values}

    @property
    def learned(self) -> int:
        """Tokens that carry a loss. The first position is never predicted."""
        return int((self.labels[:, 1:] != -100).sum())

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(**{"pixel_values": None, **moved}, names=self.names, cut=self.cut)


class Steps(Dataset[list[Batch]]):
    """Step number to the forward passes of one process in that step."""

    def __init__(
        self,
        sources: Sequence[Source],
        mixture: Mixture,
        processor: MplugOwlProcessor,
        encoding: Encoding,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sources, self.mixture, self.processor, self.encoding = sources, mixture, processor, encoding
        self.micro_batch, self.rank, self.world = micro_batch, rank, world
        self._squares: OrderedDict[Path, np.ndarray] = OrderedDict()

    def __getitem__(self, number: int) -> list[Batch]:
        mine = self.mixture.step(number)[self.rank :: self.world]
        examples = [self._example(self.sources[sample.source], sample.index) for sample in mine]
        return [self._batch(examples[i : i + self.micro_batch]) for i in range(0, len(examples), self.micro_batch)]

    def _example(self, source: Source, index: int) -> Example:
        how = self.encoding
        return encode(source[index], self.processor, how.max_tokens, how.learn, how.pictures, how.style)

    def _batch(self, examples: Sequence[Example]) -> Batch:
        squares = [self._square(picture, example.name) for example in examples for picture in example.pictures]
        images = self.processor.image_processor
        batch = self.processor.batch(
            [Encoded(example.ids, example.learned) for example in examples],
            side="right",
            labels=True,
            pixel_values=images.normalise(squares) if squares else None,
        )
        return Batch(
            batch["input_ids"],
            batch["attention_mask"],
            batch["labels"],
            batch.get("pixel_values"),
            tuple(example.name for example in examples),
            sum(example.cut for example in examples),
        )

    def _square(self, picture: object, name: str) -> np.ndarray:
        """A picture at the model's size. Small data sets are gone through many times, so the latest are remembered."""
        images = self.processor.image_processor
        if not isinstance(picture, Path):
            return images.square(open_image(picture, name))
        if picture not in self._squares:
            self._squares[picture] = images.square(open_image(picture))
            while sum(square.nbytes for square in self._squares.values()) > REMEMBERED_BYTES:
                self._squares.popitem(last=False)
        self._squares.move_to_end(picture)
        return self._squares[picture]


def batches(steps: Steps, first: int, last: int, workers: int) -> Iterator[tuple[int, list[Batch]]]:
    """The batches of steps `first` to `last` (excluded), made ahead by `workers` processes; the same for any number of them."""
    numbers = range(first, last)
    loader = DataLoader(steps, batch_size=None, sampler=numbers, num_workers=workers)
    yield from zip(numbers, loader, strict=True)
