"""Attention through transformers' interface, so sdpa, flash and custom kernels plug in by name.

Packed rows have one of their own on CUDA: PyTorch's kernel for sequences end to end, which computes no score between two of
them. It has no backward pass on the CPU: `attention_cpu` is that of steps there.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import varlen
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mplug_owl.model.attention_cpu import CPU

# The name that transformers knows the attention of packed rows by.
PACKED = "mplug_owl_varlen"
# What the kernel computes in.
KERNEL_DTYPES = (torch.bfloat16, torch.float16)


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


def use_packed_attention(language_model: PreTrainedModel) -> None:
    """Give a language model the kernel for packed rows, where sdpa was to do it."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)  # for what is not packed
    if language_model.config._attn_implementation == "sdpa":
        language_model.set_attn_implementation(PACKED)


def packed_sequences(language_model: PreTrainedModel, position_ids_1T: Tensor) -> dict[str, Any]:
    """Where the conversations of a packed row begin and end, once for all layers; nothing where no kernel wants to know."""
    if language_model.config._attn_implementation not in (PACKED, CPU):
        return {}
    starts = (position_ids_1T[0] == 0).nonzero().flatten()
    bounds = torch.cat([starts, starts.new_tensor([position_ids_1T.shape[1]])]).to(torch.int32)
    if language_model.config._attn_implementation == CPU:
        return {"packed_lengths": tuple(bounds.diff().tolist())}
    return {"packed_bounds": bounds, "packed_longest": int(bounds.diff().max())}


# Over 40 lines: attention's parameters are transformers', and the kernel's are written out.
def packed_attention(
    module: nn.Module,
    query_BHTK: Tensor,
    key_BHSK: Tensor,
    value_BHSK: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_bounds: Tensor | None = None,
    packed_longest: int = 0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Causal attention within each conversation of a packed row [1, H, T, K]: the mix [1, T, H, K].

    What is no packed row, and what the kernel cannot do (dropout, fp32), goes to sdpa with the mask that it was given.
    """
    queries_THK, keys_THK, values_THK = (states[0].transpose(0, 1) for states in (query_BHTK, key_BHSK, value_BHSK))
    if torch.is_autocast_enabled(query_BHTK.device.type):  # which knows sdpa, and not this
        half = torch.get_autocast_dtype(query_BHTK.device.type)
        queries_THK, keys_THK, values_THK = queries_THK.to(half), keys_THK.to(half), values_THK.to(half)
    if packed_bounds is None or dropout or len(query_BHTK) > 1 or queries_THK.dtype not in KERNEL_DTYPES:
        return sdpa_attention_forward(
            module, query_BHTK, key_BHSK, value_BHSK, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    shared = queries_THK.shape[1] // keys_THK.shape[1]  # heads of queries to one of keys
    # From torch 2.12 on, a conversation's result does not depend on what it is packed with.
    alone: dict[str, Any] = {"num_splits": 1} if "num_splits" in signature(varlen.varlen_attn).parameters else {}
    kernel = cast(Callable[..., Tensor], varlen.varlen_attn)  # it gives a pair only where more than the mix is asked for
    mixed_THK = kernel(
        queries_THK,
        keys_THK.repeat_interleave(shared, 1),
        values_THK.repeat_interleave(shared, 1),
        packed_bounds,
        packed_bounds,
        packed_longest,
        packed_longest,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        **alone,
    )
    return mixed_THK[None], None
