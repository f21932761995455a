"""Attention through transformers' interface, so sdpa, flash and custom kernels plug in by name."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Softmax attention written out; returns the mix [B, T, H, K] and the weights [B, H, T, S]."""
    scores_BHTS = query_BHTK @ key_BHSK.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BHTS = scores_BHTS + attention_mask
    weights_BHTS = scores_BHTS.softmax(-1, dtype=torch.float32).to(query_BHTK.dtype)
    weights_BHTS = nn.functional.dropout(weights_BHTS, dropout, module.training)
    return (weights_BHTS @ value_BHSK).transpose(1, 2).contiguous(), weights_BHTS


def attend(
    module: nn.Module,
    config: PreTrainedConfig,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    dropout: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of every query to every key by the implementation the config names: [B, T, H * K] and the weights."""
    implementation = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
    mixed_BTHK, weights = implementation(
        module,
        query_BHTK,
        key_BHSK,
        value_BHSK,
        attention_mask=None,
        scaling=query_BHTK.shape[-1] ** -0.5,
        dropout=dropout if module.training else 0.0,
        is_causal=False,
        **kwargs,
    )
    return mixed_BTHK.flatten(2), weights
