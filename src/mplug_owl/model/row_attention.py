"""Attention on a CPU in few passes over the scores, forward and back: for short rows, where their products are quick.

Written out in PyTorch's operations, scores are scaled, masked, widened, weighed and narrowed, each a pass over memory, and on
the way back the same. Here weights are computed in the queries' dtype, softmax's sums in fp32 as ever, a few queries at a time:
then scores stay in the cache, and what causal attention never sees is not computed.

Shapes: B batch, H heads, T queries, S keys, K head width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

# The name that transformers knows it by.
ROWS = "mplug_owl_rows"
# So many queries at a time.
BLOCK = 128
# Language models whose eager attention is what `row_attention` computes, without caps, sinks or windows.
KNOWN = ("llama", "lfm2")


def use_row_attention(language_model: PreTrainedModel) -> None:
    """Give a language model this attention in eager's place, where it is known to compute the same; the others keep eager."""
    AttentionInterface.register(ROWS, row_attention)
    AttentionMaskInterface.register(ROWS, _mask)
    if language_model.config._attn_implementation == "eager" and language_model.config.model_type in KNOWN:
        language_model.set_attn_implementation(ROWS)


def row_attention(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Softmax attention: the mix [B, T, H, K]. A mask [B, 1, T, S] is true where a query may look.

    Raises ValueError for dropout, which no recipe asks for here.
    """
    if dropout:
        raise ValueError("row_attention: has no dropout")
    kind = query_BHTK.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value_BHSK.dtype
    shared = query_BHTK.shape[1] // key_BHSK.shape[1]  # heads of queries to one of keys
    if shared > 1:
        key_BHSK, value_BHSK = (states.repeat_interleave(shared, 1) for states in (key_BHSK, value_BHSK))
    query, key, value = (query_BHTK * scaling).to(half), key_BHSK.to(half), value_BHSK.to(half)
    causal = bool(getattr(module, "is_causal", False)) and query.shape[2] == key.shape[2]
    return cast(Tensor, _Attention.apply(query, key, value, attention_mask, causal)), None


class _Attention(torch.autograd.Function):
    """Softmax of scaled queries' products with keys, mixed values, and the way back, in blocks of queries."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        hidden = None if mask is None else ~mask
        mixed, kept = torch.empty_like(query), []
        for first, last, seen in _blocks(query.shape[2], key.shape[2], causal):
            scores = query[:, :, first:last] @ key[:, :, :seen].transpose(-1, -2)
            if hidden is not None:
                scores.masked_fill_(hidden[:, :, first:last, :seen], torch.finfo(scores.dtype).min)
            weights = torch._softmax(scores, -1, False)
            mixed[:, :, first:last] = weights @ value[:, :, :seen]
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.causal = causal
        return mixed.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        by_mixed = gradients[0].transpose(1, 2)
        by_query, by_key, by_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        blocks = _blocks(query.shape[2], key.shape[2], ctx.causal)
        for (first, last, seen), weights in zip(blocks, kept, strict=True):
            by_block = by_mixed[:, :, first:last]
            by_value[:, :, :seen] += weights.transpose(-1, -2) @ by_block
            by_weights = by_block @ value[:, :, :seen].transpose(-1, -2)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            by_query[:, :, first:last] = by_scores @ key[:, :, :seen]
            by_key[:, :, :seen] += by_scores.transpose(-1, -2) @ query[:, :, first:last]
        return by_query, by_key, by_value, None, None


def _blocks(queries: int, keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """First query, the one after the last, and how many keys they see."""
    firsts = range(0, queries, BLOCK)
    return [(first, min(first + BLOCK, queries), min(first + BLOCK, queries) if causal else keys) for first in firsts]


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """transformers' mask for sdpa, always written out: sdpa would take None for causal."""
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
