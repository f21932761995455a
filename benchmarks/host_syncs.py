"""Where a step makes the host wait for its device: each place in our code that reads a value back, and how often.

On a GPU such a place ends what runs ahead of the card. Here it is found on a CPU, by the operations that would do it there:
a number or a list taken from a tensor, rows chosen by a mask (their number has to be known), repeats counted by a tensor.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import mplug_owl

PACKAGE = Path(mplug_owl.__file__).parent
# What waits whatever it is given, and what waits where an index is a mask.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique_consecutive", "aten::_unique2"}
BY_INDEX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# These reach no operator on a CPU, where the values are at hand.
READING = {Tensor.tolist, Tensor.numpy, Tensor.cpu}
# A batch is counted before it moves to the device, and torch's optimisers keep their count of steps on the host.
ON_THE_HOST = "data/loader.py"
OPTIMISERS = Path(torch.optim.__file__).parent


class HostSyncs(TorchDispatchMode):
    """Counts within a `with` block: `places` are FILE:FUNCTION of this package and how often the host waited there."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self.reads = _Reads(self)

    def __enter__(self) -> "HostSyncs":
        super().__enter__()
        self.reads.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.reads.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute as ever, and count what would wait."""
        name = func._schema.name
        masks = name in BY_INDEX and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        repeats = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or masks or repeats:
            self.count(sys._getframe(1))
        return func(*args, **(kwargs or {}))

    def count(self, frame: FrameType | None) -> None:
        """Once more at the innermost place of this package."""
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(OPTIMISERS):
                return
            if file.is_relative_to(PACKAGE):
                place = f"{file.relative_to(PACKAGE).as_posix()}:{frame.f_code.co_name}"
                if not place.startswith(ON_THE_HOST):
                    self.places[place] += 1
                return
            frame = frame.f_back
        self.places["elsewhere"] += 1


class _Reads(TorchFunctionMode):
    """Values read in ways that no operator shows."""

    def __init__(self, syncs: HostSyncs) -> None:
        super().__init__()
        self.syncs = syncs

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in READING:
            self.syncs.count(sys._getframe(1))
        return func(*args, **(kwargs or {}))


def counted(steps: Iterable[Any], found: list[Counter[str]]) -> Iterator[Any]:
    """The same steps; what whoever takes them does with each is counted, and `found` grows by one."""
    for step in steps:
        with HostSyncs() as syncs:
            yield step
        found.append(syncs.places)
