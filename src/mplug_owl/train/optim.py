"""The optimiser: AdamW over what learns, each module at its own rate, Muon beside it; and the clipping of gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.train.recipe import Optimizer
from mplug_owl.train.trainable import parts_of


def make_optimizer(model: MplugOwlForConditionalGeneration, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW over the parameters that learn; weight decay on matrices alone, never on norms, biases and end vectors.

    With `settings.muon` the weights of linear layers go to Muon, except the head's and LoRA's. Each group carries its `scale`,
    its module's rate over the common one, for whoever sets the rate of a step.
    """
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    matrices = _matrices(model) if settings.muon else set()
    for name, modules in parts_of(model).items():
        rate = getattr(settings.rates, name)
        scale = 1.0 if rate is None else rate / settings.lr
        for parameter in nn.ModuleList(modules).parameters():
            if parameter.requires_grad:
                decay = settings.weight_decay if sum(size > 1 for size in parameter.shape) >= 2 else 0.0
                groups.setdefault((id(parameter) in matrices, scale, decay), []).append(parameter)

    def chosen(muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "weight_decay": decay, "scale": scale, "lr": settings.lr * scale}
            for (by_muon, scale, decay), parameters in groups.items()
            if by_muon == muon
        ]

    parts: list[torch.optim.Optimizer] = []
    if rest := chosen(False):
        parts.append(torch.optim.AdamW(rest, betas=settings.betas, eps=settings.eps))
    if ours := chosen(True):
        parts.append(torch.optim.Muon(ours, lr=settings.lr, adjust_lr_fn="match_rms_adamw"))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers used as one, each over its own parameters."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share_groups()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # torch overloads it
        """One step of each."""
        for part in self.parts:
            part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The states of all, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the states of all back."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        """Whoever sets a group's rate here sets the part's own."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def clip_gradients(model: nn.Module, max_norm: float | None) -> float:
    """Scale the gradient of all weights down to at most this norm; returns the norm it had. None scales nothing."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _matrices(model: MplugOwlForConditionalGeneration) -> set[int]:
    """The weights of linear layers: those that turn one layer's values into another's, not words into vectors or back."""
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {id(module.weight) for name, module in linear if module is not model.lm_head and ".lora_" not in name}
