"""Counts: what a step holds over all processes, and the sums since the last line of metrics."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from mplug_owl.data.loader import BadRecord, Batch, StepBatches
from mplug_owl.train.flops import Utilisation


@dataclass(frozen=True)
class StepCounts:
    """Of one step over all processes: supervised tokens (or answers), tokens, bad records.

    `supervised` is on the device, for the loss is divided there, and `supervised_count` is the same number. `passes` are the
    forward passes of the process that has most; `pictures` is whether any process has one.
    """

    supervised: Tensor
    supervised_count: int
    tokens: int
    bad: tuple[BadRecord, ...]
    passes: int
    pictures: bool


def count_step(accelerator: Accelerator, data: StepBatches) -> StepCounts:
    """Count a step; every process takes part."""
    counted = [
        sum(batch.supervised for batch in data.batches),
        sum(batch.tokens for batch in data.batches),
        len(data.bad),
        len(data.batches),
        any(batch.pixel_values is not None for batch in data.batches),
    ]
    counts = accelerator.gather(torch.tensor([counted], device=accelerator.device))  # a row of every process
    rows = counts.tolist()  # read once: a device waits each time
    supervised, tokens, bad, _, pictures = (sum(column) for column in zip(*rows, strict=True))
    records = gather_object(list(data.bad)) if bad else []
    most = max(row[3] for row in rows)
    return StepCounts(counts[:, 0].sum(), supervised, tokens, tuple(records), most, pictures > 0)


class Window:
    """Sums since the last line of metrics. Counts are of all processes; times, padding, samples, requests this one's."""

    def __init__(self, utilisation: Utilisation | None = None) -> None:
        self.utilisation, self.pictures = utilisation, 0
        self.began = self.waiting_since = time.perf_counter()
        self.waited = 0.0
        self.loss, self.steps, self.tokens, self.samples, self.positions, self.cut, self.supervised = 0.0, 0, 0, 0, 0, 0, 0
        self.everywhere, self.bad = 0, 0
        self.requests, self.fetched = 0, 0

    def data_arrived(self, data: StepBatches) -> None:
        """The wait for a step's data ends."""
        self.waited += time.perf_counter() - self.waiting_since
        self.requests += data.fetched.requests
        self.fetched += data.fetched.bytes

    def step_ended(self) -> None:
        """The wait for the next step's data begins."""
        self.waiting_since = time.perf_counter()

    def add(self, batches: Sequence[Batch], loss: float, counts: StepCounts) -> None:
        """Add a step that was learned from."""
        self.loss += loss * counts.supervised_count
        self.supervised += counts.supervised_count
        self.steps += 1
        self.everywhere += counts.tokens
        for batch in batches:
            self.tokens += batch.tokens
            self.pictures += 0 if batch.pixel_values is None else len(batch.pixel_values)
            self.positions += batch.input_ids.numel()
            self.samples += len(batch.names)
            self.cut += batch.cut

    def line(self) -> dict[str, float]:
        """The sums as a line of metrics. Without a step that was learned from it has no loss."""
        seconds = time.perf_counter() - self.began
        line = {
            **({"loss": self.loss / max(1, self.supervised)} if self.steps else {}),
            "tokens_per_step": round(self.everywhere / max(1, self.steps)),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "samples_per_second": round(self.samples / seconds, 2),
            "padding": round(1 - self.tokens / max(1, self.positions), 4),
            "data_wait": round(self.waited / seconds, 4),
            "supervised_tokens": self.supervised,
            "cut_tokens": self.cut,
            "bad_samples": self.bad,
        }
        if self.requests:
            line |= {"store_requests": self.requests, "store_bytes": self.fetched}
        if self.utilisation is not None:
            line["mfu"] = round(self.utilisation.mfu(self.tokens, self.pictures, seconds), 4)
        return line
