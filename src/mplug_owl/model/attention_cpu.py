"""Attention of training steps on a CPU, where PyTorch's fused kernel is slow on its way back in bf16 and sees no packed rows.

What it computes is softmax attention as everywhere else; only the order of operations differs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# The name that transformers knows it by.
CPU = "mplug_owl_cpu"


def use_cpu_attention(model: PreTrainedModel) -> None:
    """Give every part of an owl this attention for its steps, where sdpa was to do it."""
    AttentionInterface.register(CPU, cpu_attention)
    AttentionMaskInterface.register(CPU, sdpa_mask)
    # The abstractor has no config of its own and shares the owl's. Setting a whole owl's sets its parts', so all are set anew.
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part, chosen in [(part, part.config._attn_implementation) for part in parts]:
        # Falcon and other old models ask for sdpa by its name, and under another do something between the two.
        asks = chosen == "sdpa" and type(part)._can_set_attn_implementation()
        part.config._attn_implementation = CPU if asks else chosen


# Over 40 lines: attention's parameters are transformers'.
def cpu_attention(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    packed_lengths: tuple[int, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The mix [B, T, H, K]. A packed row [1, H, T, K] is read conversation by conversation: no score between two is computed.

    In bf16 it is written out where gradients are asked for; elsewhere sdpa does it.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if packed_lengths is not None and causal and len(query_BHTK) == 1 and kwargs.get("sliding_window") is None:
        apart = (states.split(packed_lengths, dim=2) for states in (query_BHTK, key_BHSK, value_BHSK))
        mixed = [
            cpu_attention(module, query, key, value, None, scaling, dropout, causal, **kwargs)[0]
            for query, key, value in zip(*apart, strict=True)
        ]
        return torch.cat(mixed, dim=1), None
    half = query_BHTK.dtype
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
    plain = all(kwargs.get(name) is None for name in ("softcap", "s_aux", "position_bias"))
    learning = torch.is_grad_enabled() and query_BHTK.requires_grad
    if half not in (torch.bfloat16, torch.float16) or not learning or not plain:
        return sdpa_attention_forward(
            module, query_BHTK, key_BHSK, value_BHSK, attention_mask, dropout, scaling, is_causal, **kwargs
        )
    scaling = query_BHTK.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        query, key, value = (states.to(half) for states in (query_BHTK, key_BHSK, value_BHSK))
        shared = query.shape[1] // key.shape[1]  # heads of queries to one of keys
        key, value = repeat_kv(key, shared), repeat_kv(value, shared)
        return written_out(query, key, value, attention_mask, scaling, causal, dropout), None


def written_out(
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    mask: Tensor | None,
    scaling: float,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """Two products and a softmax, its sums in fp32: the mix [B, T, H, K]. `mask` is True where a key is seen, or added."""
    heads, (rows, keys) = query_BHTK.shape[:2], (query_BHTK.shape[2], key_BHSK.shape[2])
    if mask is None and causal and rows > 1:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=query_BHTK.device).tril(keys - rows)
    if mask is not None and mask.dtype == torch.bool:
        hidden = torch.finfo(query_BHTK.dtype).min  # and not minus infinity, for a row of padding sees nothing
        mask = torch.zeros(mask.shape, dtype=query_BHTK.dtype, device=mask.device).masked_fill(~mask, hidden)
    queries, keys_, values = (states.flatten(0, 1) for states in (query_BHTK, key_BHSK, value_BHSK))
    if mask is None:
        scores = torch.bmm(queries * scaling, keys_.transpose(1, 2))
    else:
        added = mask.to(queries.dtype).expand(*heads, rows, keys).flatten(0, 1)
        scores = torch.baddbmm(added, queries, keys_.transpose(1, 2), alpha=scaling)
    weights = nn.functional.dropout(scores.softmax(-1), dropout)
    return torch.bmm(weights, values).unflatten(0, heads).transpose(1, 2).contiguous()
