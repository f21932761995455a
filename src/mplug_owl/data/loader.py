"""From sources to batches: the samples of each step, encoded, their pictures opened, padded or packed, ready to learn from.

A sample that cannot be read is named with its reason; none is put in its stead.
"""

import contextlib
import signal
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mplug_owl.data.augment import crop_box
from mplug_owl.data.examples import Examples
from mplug_owl.data.mixture import Mixture, SampleId
from mplug_owl.data.packing import pack, positions
from mplug_owl.data.sources.store import NO_TRAFFIC, Traffic, take_traffic
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import open_image
from mplug_owl.model.processor import Example

# A square of 224 pixels is 147 KiB, so this holds the pictures of a small data set and a laptop does not notice.
REMEMBERED_BYTES = 512 * 2**20
# Padded rows are a multiple of this long, or max_tokens: kernels are made for each length and kept for those that come again,
# and softmax in bf16 reads so many scores at once.
MULTIPLE = 16
# Steps of which a source hears before they are made, so that it can fetch what is far away. Eight steps take seconds.
AHEAD = 8


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes: ids and labels [B, T], pixels [I, 3, S, S] where there are pictures.

    Padded rows have a mask [B, T] and no positions, packed ones have positions [B, T] and no mask. `loss_weights` [B, T] are
    there where answers weigh alike.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    pixel_values: Tensor | None
    names: tuple[str, ...]
    cut: int
    loss_weights: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors, by the names of the model's arguments."""
        names = ("input_ids", "labels", "attention_mask", "position_ids", "pixel_values", "loss_weights")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}

    @property
    def supervised(self) -> int:
        """What the step's loss is divided by: tokens that carry one, or answers. The first position is never predicted."""
        if self.loss_weights is not None:
            return round(float(self.loss_weights.sum()))
        return int((self.labels[:, 1:] != -100).sum())

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return self.input_ids.numel() if self.attention_mask is None else int(self.attention_mask.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device, copied meanwhile where memory is pinned."""
        return self._with({name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()})

    def pin_memory(self) -> "Batch":
        """The same batch where a GPU can fetch it from by itself. PyTorch's loader asks for it."""
        return self._with({name: tensor.pin_memory() for name, tensor in self.inputs.items()})

    def _with(self, tensors: dict[str, Any]) -> "Batch":
        return replace(self, **tensors)


@dataclass(frozen=True)
class BadRecord:
    """A sample that could not be read: its source, its index there, and why."""

    source: str
    index: int
    reason: str


@dataclass(frozen=True)
class StepBatches:
    """What one process learns from in one step, in forward passes, and the samples of it that could not be read.

    `fetched` is what was asked of stores since the step before.
    """

    batches: tuple[Batch, ...]
    bad: tuple[BadRecord, ...]
    fetched: Traffic = NO_TRAFFIC

    def pin_memory(self) -> "StepBatches":
        """The same with its batches in pinned memory."""
        return replace(self, batches=tuple(batch.pin_memory() for batch in self.batches))


class StepDataset(Dataset[StepBatches]):
    """Step number to the forward passes of one process in that step."""

    def __init__(
        self,
        examples: Examples,
        mixture: Mixture,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.examples, self.mixture = examples, mixture
        self.micro_batch, self.rank, self.world = micro_batch, rank, world
        self.last: int | None = None  # the step at which the run ends, if that is known
        self._shares: dict[int, list[SampleId]] = {}
        self._announced = range(0)
        self._squares: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._remembered = 0

    def __getitem__(self, number: int) -> StepBatches:
        samples: list[tuple[Example, list[np.ndarray]]] = []
        bad: list[BadRecord] = []
        self._announce(number)
        for sample in self._share(number):
            try:
                samples.append(self._read(sample))
            except BadSample as error:
                bad.append(BadRecord(self.examples.sources[sample.source].name, sample.index, str(error)))
        if not samples:  # a process with nothing to do still takes part in the step
            samples.append((self._nothing(), []))
        if (room := self.examples.encoding.pack) is not None:
            rows = pack([len(example) for example, _ in samples], room)
            batches = [self._packed([samples[index] for index in row]) for row in rows]
        else:
            size = self.micro_batch
            if len(samples) > size:  # neighbours in length share a forward pass: less padding, the same sum
                samples.sort(key=lambda sample: len(sample[0]))
            batches = [self._padded(samples[first : first + size]) for first in range(0, len(samples), size)]
        _check_open_files(batches)
        return StepBatches(tuple(batches), tuple(bad), take_traffic())

    def names(self, number: int) -> list[str]:
        """The samples of a step over all processes, each as `SOURCE[INDEX]`."""
        return [self.examples.name(sample) for sample in self.mixture.step(number)]

    def _share(self, number: int) -> list[SampleId]:
        """This process's samples of a step. The latest are kept, for they are announced before they are read."""
        if number not in self._shares:
            self._shares[number] = self.mixture.share(number, self.rank, self.world)
            if len(self._shares) > 2 * AHEAD:
                del self._shares[next(iter(self._shares))]
        return self._shares[number]

    def _announce(self, number: int) -> None:
        """Tell sources that want to know, by their `expect`, which samples of theirs this step and the next ones take.

        A data worker tells only of its own steps, which the loader hands out in turn; nobody tells of a step twice. With it
        goes whether samples are read in blocks, so that the neighbours of a sample are wanted soon too.
        """
        listening = [(at, source.expect) for at, source in enumerate(self.examples.sources) if hasattr(source, "expect")]
        if listening:
            stride = 1 if (worker := get_worker_info()) is None else worker.num_workers
            end = number + max(AHEAD, stride) + 1
            steps = range(number, end if self.last is None else min(end, self.last), stride)
            soon = [sample for step in steps if step not in self._announced for sample in self._share(step)]
            self._announced = steps
            for at, expect in listening:
                expect([sample.index for sample in soon if sample.source == at], self.mixture.in_blocks[at])

    def _read(self, sample: SampleId) -> tuple[Example, list[np.ndarray]]:
        example, smallest = self.examples[sample], self.examples.encoding.crop
        if smallest is None:
            return example, [self._square(picture, example.name) for picture in example.pictures]
        squares = []
        for number, picture in enumerate(example.pictures):
            # Another part of it each epoch, so there is nothing to remember.
            opened = open_image(picture, "" if isinstance(picture, Path) else example.name)
            box = crop_box(opened.size, smallest, self.examples.seed, sample, number)
            squares.append(self.examples.processor.image_processor.square(opened, box))
        return example, squares

    def _nothing(self) -> Example:
        end = self.examples.processor.tokenizer.eos_token_id
        return Example((end, end), (False, False), (), "nothing")

    def _padded(self, samples: Sequence[tuple[Example, list[np.ndarray]]]) -> Batch:
        bare = [replace(example, pictures=()) for example, _ in samples]  # they are opened already
        longest = max(len(example) for example in bare)
        length = min(-(-longest // MULTIPLE) * MULTIPLE, max(longest, self.examples.encoding.max_tokens))
        batch = self.examples.processor.batch(bare, side="right", labels=True, length=length)
        return self._batch(samples, batch["input_ids"], batch["labels"], batch["attention_mask"], None)

    def _packed(self, samples: Sequence[tuple[Example, list[np.ndarray]]]) -> Batch:
        ids = [token for example, _ in samples for token in example.ids]
        # Nobody predicts the first token of the next conversation.
        labels = [
            token if supervised and position else -100
            for example, _ in samples
            for position, (token, supervised) in enumerate(zip(example.ids, example.loss_mask, strict=True))
        ]
        restarting = positions([len(example) for example, _ in samples])
        return self._batch(samples, torch.tensor([ids]), torch.tensor([labels]), None, torch.tensor([restarting]))

    def _batch(
        self,
        samples: Sequence[tuple[Example, list[np.ndarray]]],
        ids: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> Batch:
        squares = [square for _, opened in samples for square in opened]
        pixels = self.examples.processor.image_processor.normalise(squares) if squares else None
        names = tuple(example.name for example, _ in samples)
        weights = answer_weights(labels) if self.examples.encoding.weigh == "answers" else None
        return Batch(ids, labels, mask, position_ids, pixels, names, sum(example.cut for example, _ in samples), weights)

    def _square(self, picture: object, name: str) -> np.ndarray:
        """A picture at the model's size. Small data sets are gone through many times, so the latest are remembered."""
        images = self.examples.processor.image_processor
        if not isinstance(picture, Path):
            return images.square(open_image(picture, name))
        if picture not in self._squares:
            self._squares[picture] = images.square(open_image(picture))
            self._remembered += self._squares[picture].nbytes
            while self._remembered > REMEMBERED_BYTES:
                self._remembered -= self._squares.popitem(last=False)[1].nbytes
        self._squares.move_to_end(picture)
        return self._squares[picture]


def answer_weights(labels_BT: Tensor) -> Tensor:
    """Weights [B, T] by which every answer, a run of supervised tokens, counts as one. Nothing predicts a row's first token."""
    supervised_BT = labels_BT != -100
    supervised_BT[:, 0] = False
    begins_BT = supervised_BT & ~supervised_BT.roll(1, dims=1)
    answers = begins_BT.flatten().cumsum(0)  # the number of each token's answer, over all rows
    lengths = torch.bincount(answers[supervised_BT.flatten()], minlength=int(answers[-1]) + 1).clamp(min=1)
    return (supervised_BT.flatten() / lengths[answers]).view_as(labels_BT)


def step_loader(steps: StepDataset, first: int, last: int, workers: int) -> Iterator[tuple[int, StepBatches]]:
    """Steps `first` to `last` (excluded), made ahead by `workers` processes; the same for any number of them.

    Raises UserError where a store does not answer, whichever process asked it, and where a step has too many passes.
    """
    if workers:
        _allow_open_files()
    numbers, steps.last = range(first, last), last
    pinned = torch.cuda.is_available()  # by a thread of the loader's, where there are workers
    loader = DataLoader(
        steps, batch_size=None, sampler=numbers, num_workers=workers, worker_init_fn=_leave_signals, pin_memory=pinned
    )
    made = iter(loader)
    try:
        yield from zip(numbers, made, strict=True)
    except UserError as error:  # a worker's has its whole traceback for a message, and its sentence at the end
        raise UserError(str(error).rstrip().rpartition("UserError: ")[2]) from error
    finally:
        # They ignore the signal by which Python ends its children, so after a crash it would wait for them for ever.
        if isinstance(made, _MultiProcessingDataLoaderIter):
            made._shutdown_workers()


def _allow_open_files() -> None:
    """Every tensor that a worker hands over is an open file, and a step may have thousands; the usual limit is 1,024."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not above: Windows has none

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_open_files(batches: Sequence[Batch]) -> None:
    """Raise UserError where a worker, which makes two steps ahead, has more tensors than files it may open.

    PyTorch would lose the step, and the run would wait for it for ever.
    """
    if get_worker_info() is None or torch.multiprocessing.get_sharing_strategy() != "file_descriptor":
        return
    import resource  # not above: Windows has none, and another strategy

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 2 * sum(len(batch.inputs) for batch in batches) > allowed != resource.RLIM_INFINITY:
        raise UserError(
            f"a step has {len(batches):,} forward passes and a data worker may open {allowed:,} files, too few for them; "
            "raise the limit (ulimit -Hn) or micro_batch, or set workers=0"
        )


def _leave_signals(worker: int) -> None:
    """Schedulers ask every process of a job to stop. The workers stay, for the step that ends needs its data; they leave when
    the process that they work for does.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
