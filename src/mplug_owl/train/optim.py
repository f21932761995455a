"""The optimiser: AdamW over what learns, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from mplug_owl.train.recipe import AdamW


def adamw(model: nn.Module, settings: AdamW) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; weight decay on matrices alone, never on norms, biases and end vectors."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in learned if parameter.squeeze().ndim >= 2]
    vectors = [parameter for parameter in learned if parameter.squeeze().ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, eps=settings.eps
    )


def learning_rate(settings: AdamW, step: int, steps: int) -> float:
    """The rate of a step counted from 0: up in a line over the warm-up, then down a half cosine to `min_lr`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * done)) / 2
