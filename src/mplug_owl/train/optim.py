"""The optimiser: AdamW over what learns, each module at its own rate, Muon beside it; the rate as a function of the step."""

import math
from typing import Any

import torch
from torch import nn

from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.train.recipe import AdamW
from mplug_owl.train.trainable import parts_of


def optimizer(owl: MplugOwlForConditionalGeneration, settings: AdamW) -> torch.optim.Optimizer:
    """AdamW over the parameters that learn; weight decay on matrices alone, never on norms, biases and end vectors.

    With `settings.muon` the weights of linear layers, the head's and LoRA's aside, go to Muon. Each group carries its `scale`,
    its module's rate over the common one, for whoever sets the rate of a step.
    """
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    matrices = _matrices(owl) if settings.muon else set()
    for name, modules in parts_of(owl).items():
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
    return parts[0] if len(parts) == 1 else Together(parts)


class Together(torch.optim.Optimizer):
    """Several optimisers that take their steps together, each over its own parameters."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share_groups()

    def step(self, closure: Any = None) -> None:
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


def learning_rate(settings: AdamW, step: int, steps: int) -> float:
    """The rate of a step counted from 0: up in a line over the warm-up, then down a half cosine to `min_lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * done)) / 2


def _matrices(owl: MplugOwlForConditionalGeneration) -> set[int]:
    """The weights of linear layers: those that turn one layer's values into another's, not words into vectors or back."""
    linear = ((name, module) for name, module in owl.named_modules() if isinstance(module, nn.Linear))
    return {id(module.weight) for name, module in linear if module is not owl.lm_head and ".lora_" not in name}
