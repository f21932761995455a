"""The optimiser: AdamW over what learns, each module at its own rate, Muon beside it; and the clipping of gradients."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
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
    matrices = muon_matrices(model) if settings.muon else set()
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
        parts.append(Muon(ours, lr=settings.lr, adjust_lr_fn="match_rms_adamw"))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


class Muon(torch.optim.Muon):
    """torch's Muon, with matrices of equal shape orthogonalised together: a product for all of them in place of one each.

    Its state is torch's, so a run that began with either resumes with the other. Equal to rounding.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # torch overloads it
        """One step. Weights that are spread over processes go torch's way, one by one."""
        trained = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        if closure is not None or any(isinstance(weight, DTensor) for weight in trained):
            super().step(closure)
            return
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(tuple(sorted(weight.shape)), []).append(weight)
            for weights in alike.values():
                self._step(weights, group)

    def _step(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        """A step of weights whose shapes are the same, or the same when turned."""
        updates = []
        for weight in weights:
            state, gradient = self.state[weight], cast(Tensor, weight.grad)
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
            state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            update = (
                gradient.lerp(state["momentum_buffer"], group["momentum"]) if group["nesterov"] else state["momentum_buffer"]
            )
            updates.append((update.T if update.shape[0] > update.shape[1] else update).bfloat16())
        stacked = torch.stack(updates)
        stacked.div_(stacked.flatten(1).norm(dim=1).clamp(min=group["eps"])[:, None, None])
        first, second, third = group["ns_coefficients"]
        for _ in range(group["ns_steps"]):
            gram = stacked @ stacked.mT
            stacked = torch.baddbmm(stacked, torch.baddbmm(gram, gram, gram, beta=second, alpha=third), stacked, beta=first)
        for weight, update in zip(weights, stacked, strict=True):
            rate = group["lr"] * 0.2 * math.sqrt(max(weight.shape))  # arXiv 2502.16982: steps as long as AdamW's
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update.T if weight.shape[0] > weight.shape[1] else update, alpha=-rate)


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


def muon_matrices(model: MplugOwlForConditionalGeneration) -> set[int]:
    """The weights of linear layers: those that turn one layer's values into another's, not words into vectors or back."""
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {id(module.weight) for name, module in linear if module is not model.lm_head and ".lora_" not in name}
