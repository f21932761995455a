"""Attention of training steps on a CPU, where PyTorch's fused kernel has a slow backward pass in bf16 and sees no packed rows.

What it computes is softmax attention as everywhere else; only the order of operations differs.

Shapes: B batch, H heads, T queries, S keys, K head width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# The name that transformers knows it by.
CPU = "mplug_owl_cpu"
# Of causal attention so many queries at a time: what they never see is not computed.
BLOCK = 128
# Softmax in bf16 reads so many scores at once and what is left of a row one by one: more than FEW, and the row is filled up.
AT_ONCE, FEW = 32, 8
# Language models whose eager attention is this, without caps, sinks or windows. The owl's own parts have no other.
KNOWN = ("llama", "lfm2", "mplug-owl", "mplug_owl_vision_model")


def use_cpu_attention(model: PreTrainedModel) -> list[tuple[PreTrainedConfig, str]]:
    """Give every part of an owl this attention for its steps, where sdpa was to do it, or eager and it is known to be the same.

    Returns the parts' configs with what they said before.
    """
    AttentionInterface.register(CPU, cpu_attention)
    AttentionMaskInterface.register(CPU, sdpa_mask)
    # The abstractor has no config of its own and shares the owl's. Setting a whole owl's sets its parts', so all are set anew.
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    before = [(part.config, part.config._attn_implementation) for part in parts]
    for part, (config, chosen) in zip(parts, before, strict=True):
        same = chosen == "sdpa" or (chosen == "eager" and config.model_type in KNOWN)
        # Falcon and other old models ask for sdpa by its name, and under another do something between the two.
        config._attn_implementation = CPU if same and type(part)._can_set_attn_implementation() else chosen
    return before


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
        return cast(Tensor, _Attention.apply(query, key, value, attention_mask, scaling, causal, dropout)), None


class _Attention(torch.autograd.Function):
    """Two products and a softmax, its sums in fp32, and the backward pass, in as few passes over the scores as may be."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BHTK: Tensor,
        key_BHSK: Tensor,
        value_BHSK: Tensor,
        mask: Tensor | None,
        scaling: float,
        causal: bool,
        dropout: float,
    ) -> Tensor:
        """The mix [B, T, H, K]. `mask` is True where a key is seen, or added."""
        (batch, heads, rows, width), keys = query_BHTK.shape, key_BHSK.shape[2]
        query = torch.mul(query_BHTK, scaling, out=query_BHTK.new_empty(query_BHTK.shape))  # laid out as products read it
        room = -keys % AT_ONCE if keys % AT_ONCE > FEW else 0
        key, value = (nn.functional.pad(states, (0, 0, 0, room)).contiguous() for states in (key_BHSK, value_BHSK))
        added = _added(mask, causal, rows, keys, query)
        mixed, kept = query.new_empty(batch, rows, heads, width), []
        for first, last, seen in _blocks(rows, keys, causal):
            scores = query[:, :, first:last] @ key[:, :, : seen + room].mT
            if added is not None:
                scores[..., :seen] += added[..., first:last, :seen]
            scores[..., seen:] = torch.finfo(scores.dtype).min
            weights = torch._softmax(scores, -1, False)
            noise = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
            part = (weights if noise is None else weights * noise) @ value[:, :, : seen + room]
            mixed[:, first:last] = part.transpose(1, 2)
            kept += [weights, noise]
        ctx.save_for_backward(query, key, value, *kept)
        ctx.blocks, ctx.scaling, ctx.keys = _blocks(rows, keys, causal), scaling, keys
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and values."""
        query, key, value, *kept = ctx.saved_tensors
        by_mixed, by_query = gradients[0].transpose(1, 2).contiguous(), torch.empty_like(query)
        by_key, by_value = key, value
        for at in reversed(range(len(ctx.blocks))):  # the last block sees all keys
            (first, last, _), weights, noise = ctx.blocks[at], kept[2 * at], kept[2 * at + 1]
            seen, by_block = weights.shape[-1], by_mixed[:, :, first:last]
            by_weights = by_block @ value[:, :, :seen].mT
            by_weights = by_weights if noise is None else by_weights.mul_(noise)
            by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            by_query[:, :, first:last] = by_scores @ key[:, :, :seen]
            to_value = (weights if noise is None else weights * noise).mT @ by_block
            to_key = by_scores.mT @ query[:, :, first:last]
            if at == len(ctx.blocks) - 1:
                by_key, by_value = to_key, to_value
            else:
                by_key[:, :, :seen] += to_key
                by_value[:, :, :seen] += to_value
        return by_query.mul_(ctx.scaling), by_key[:, :, : ctx.keys], by_value[:, :, : ctx.keys], None, None, None, None


def _added(mask: Tensor | None, causal: bool, rows: int, keys: int, like: Tensor) -> Tensor | None:
    """What is added to scores [..., T, S], so that hidden keys weigh nothing; None where there are none.

    It is half the lowest number, so that no sum is minus infinity: a row of padding sees nothing, and its weights are numbers
    all the same.
    """
    lowest = torch.finfo(like.dtype).min / 2
    if mask is None and causal and rows > 1:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=like.device).tril(keys - rows)
    if mask is None or mask.dtype != torch.bool:
        return None if mask is None else mask.to(like.dtype).clamp(min=lowest)
    return like.new_zeros(mask.shape).masked_fill_(~mask, lowest)


def _blocks(rows: int, keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """First query, the one after the last, and how many keys they see. Causal ones are cut where every row sees its own end."""
    if not causal or rows != keys:
        return [(0, rows, keys)]
    return [(first, min(first + BLOCK, rows), min(first + BLOCK, keys)) for first in range(0, rows, BLOCK)]
