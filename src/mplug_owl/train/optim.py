"""The optimiser: AdamW over what learns, each module at its own rate, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.train.recipe import AdamW
from mplug_owl.train.trainable import parts_of


def adamw(owl: MplugOwlForConditionalGeneration, settings: AdamW) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; weight decay on matrices alone, never on norms, biases and end vectors.

    Each group carries its `scale`, its module's rate over the common one, for whoever sets the rate of a step.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, modules in parts_of(owl).items():
        rate = getattr(settings.rates, name)
        scale = 1.0 if rate is None else rate / settings.lr
        for parameter in nn.ModuleList(modules).parameters():
            if parameter.requires_grad:
                decay = settings.weight_decay if parameter.squeeze().ndim >= 2 else 0.0
                groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "scale": scale, "lr": settings.lr * scale}
            for (scale, decay), parameters in groups.items()
        ],
        betas=settings.betas,
        eps=settings.eps,
    )


def learning_rate(settings: AdamW, step: int, steps: int) -> float:
    """The rate of a step counted from 0: up in a line over the warm-up, then down a half cosine to `min_lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * done)) / 2
