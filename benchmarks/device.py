"""The door to what only a card can do: its name, its memory, its clock, pinned memory. A CPU has the same door.

`Card` is given `torch.cuda`, and in tests what stands in its place: so each of its lines is run where there is no card.
What is never run without one: the card's own kernels, and `packed_attention`'s call of PyTorch's varlen kernel.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

# Dense bf16 TFLOP/s and memory bandwidth in GB/s, by NVIDIA's datasheets.
DATASHEETS = {"H200": (989.0, 4800.0), "H100": (989.0, 3350.0), "A100": (312.0, 2039.0)}


class Card:
    """An NVIDIA card. `cuda` is torch.cuda, `pin` what pins a tensor's memory."""

    def __init__(
        self, cuda: Any = torch.cuda, pin: Callable[[Tensor], Tensor] = Tensor.pin_memory, device: str = "cuda"
    ) -> None:
        self.cuda, self.pin, self.device = cuda, pin, torch.device(device)

    @property
    def name(self) -> str:
        """As its driver says."""
        return str(self.cuda.get_device_name())

    @property
    def datasheet(self) -> tuple[float | None, float | None]:
        """TFLOP/s and GB/s, None for a card that is not listed."""
        return next((rates for name, rates in DATASHEETS.items() if name in self.name), (None, None))

    def forget(self) -> None:
        """Give free memory back, and begin to watch its peak."""
        self.cuda.empty_cache()
        self.cuda.reset_peak_memory_stats()

    @property
    def peak_gib(self) -> float | None:
        """The most that tensors took since `forget`."""
        return round(self.cuda.max_memory_allocated() / 2**30, 1)

    def seconds(self, work: Callable[[], object]) -> float:
        """How long the card takes for it, by its own events."""
        began, ended = self.cuda.Event(enable_timing=True), self.cuda.Event(enable_timing=True)
        began.record()
        work()
        ended.record()
        self.cuda.synchronize()
        return float(began.elapsed_time(ended)) / 1e3


class Processor:
    """The same door of a CPU, which has no memory of its own and waits for nobody."""

    device = torch.device("cpu")
    name = "CPU"
    datasheet: tuple[float | None, float | None] = (None, None)
    peak_gib: float | None = None

    def pin(self, tensor: Tensor) -> Tensor:
        """As it is."""
        return tensor

    def forget(self) -> None:
        """Nothing."""

    def seconds(self, work: Callable[[], object]) -> float:
        """By the clock."""
        began = time.perf_counter()
        work()
        return time.perf_counter() - began


Door = Card | Processor


def here() -> Door:
    """The card where there is one."""
    return Card() if torch.cuda.is_available() else Processor()


def stand_in() -> tuple[Card, list[str]]:
    """A card that is none, and the names of what it was asked, for tests."""
    asked: list[str] = []

    def answer(name: str, value: object = None) -> Callable[..., Any]:
        def call(*given: object, **named: object) -> object:
            asked.append(name)
            return value

        return call

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            asked.append("Event")

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, later: "Event") -> float:
            return (later.at - self.at) * 1e3

    cuda = SimpleNamespace(
        get_device_name=answer("get_device_name", "NVIDIA H200"),
        empty_cache=answer("empty_cache"),
        reset_peak_memory_stats=answer("reset_peak_memory_stats"),
        max_memory_allocated=answer("max_memory_allocated", 3 * 2**30),
        synchronize=answer("synchronize"),
        Event=Event,
    )

    def pin(tensor: Tensor) -> Tensor:
        asked.append("pin_memory")
        return tensor

    return Card(cuda, pin, "cpu"), asked
