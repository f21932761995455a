"""An exam in the middle of a run. What is asked is no business of training: a callable brings it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl


@dataclass(frozen=True)
class Exam:
    """Every `every` steps, and after the last one, `take` says how good the owl is, as figures by name."""

    every: int
    take: Callable[[Owl], Mapping[str, float]]

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"Exam: every is {self.every}; it must be 1 or more")

    def due(self, done: int, steps: int) -> bool:
        """Whether there is one after this step, counted from 1."""
        return done % self.every == 0 or done == steps

    def figures(self, owl: Owl, precision: str) -> dict[str, float]:
        """Take it now, in the precision that is trained in. It changes nothing of the run."""
        modes, device = [(module, module.training) for module in owl.model.modules()], owl.model.device
        owl.model.eval()
        try:
            with (
                torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type),
                torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
                torch.compiler.set_stance("force_eager"),  # answers grow word by word, a new shape each
            ):
                return dict(self.take(owl))
        finally:
            for module, training in modes:
                module.training = training
