"""The learning rate as a function of the step."""

import math

import torch

from mplug_owl.train.recipe import Schedule


def learning_rate(peak: float, schedule: Schedule, step: int, steps: int) -> float:
    """The rate of a step counted from 0: up in a line over the warm-up, then down a half cosine to `min_lr`."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    return schedule.min_lr + (peak - schedule.min_lr) * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters its module's share of this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
