"""Equations in plain torch that tests hold the modules against, written without looking at how a module computes them."""

from typing import Any

import torch
from torch import Tensor, nn


def attention(queries_ITD: Tensor, keys_ISD: Tensor, values_ISD: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / √K) v, head after head."""
    mixed = []
    for query, key, value in zip(*(states.chunk(heads, -1) for states in (queries_ITD, keys_ISD, values_ISD)), strict=True):
        scores_ITS = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        mixed.append(scores_ITS.softmax(-1) @ value)
    return torch.cat(mixed, -1)


def norm(layer: nn.LayerNorm, states: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / √(variance + eps), times the layer's weight, plus its bias."""
    variance, mean = torch.var_mean(states, -1, keepdim=True, correction=0)
    return (states - mean) / (variance + eps).sqrt() * layer.weight + layer.bias


def quiet(*shape: int, seed: int = 0) -> Tensor:
    """Random states in float64, so small that a norm's eps of 1e-5 and one of 1e-6 give different numbers."""
    draws = torch.Generator().manual_seed(seed)
    return 0.003 * torch.randn(*shape, generator=draws, dtype=torch.float64)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal as far as two orders of float64 additions are."""
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
