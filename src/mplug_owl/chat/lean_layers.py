"""LLaMA's and LFM2's layers where words are chosen on a CPU: transformers' numbers to rounding, in fewer passes over memory.

Of a small model's prompt products are a fifth of the time and the rest is such passes: positions that are turned, masks that
every layer makes anew, convolutions with their channels first, residuals. Linear layers and norms are called as ever, so
LoRA, weights laid out for oneDNN and int8 work within. Whatever else is asked of the model, transformers computes.

Shapes: B rows, T positions read now, S positions seen, E width, H heads, K head width, C channels, L a convolution's length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, silu
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mplug_owl.model.attention_cpu import CPU
from mplug_owl.model.small_weights import PackedLinear

# transformers' classes, and what their layers call the norm in front of what mixes positions and the one after it, the
# feed-forward, its three linears, and the norm after all layers.
KNOWN = {
    "LlamaModel": ("input_layernorm", "post_attention_layernorm", "mlp", ("gate_proj", "up_proj", "down_proj"), "norm"),
    "Lfm2Model": ("operator_norm", "ffn_norm", "feed_forward", ("w1", "w3", "w2"), "embedding_norm"),
}

# Products of sums no longer than this are rounded alike however many rows there are; longer ones are of 32 rows and fewer
# (every width tried, 1, 2 and 4 threads of a Xeon with AMX: docs/serving.md).
SHORT = 256


@dataclass(frozen=True)
class Seen:
    """What is the same in every layer.

    Args:
        past: Keys, values and convolutions' last inputs.
        bias: 0 where a position is seen and a low number elsewhere [B, 1, T, S]; None where sdpa's own order is right.
        read: 1 for words and 0 for padding [B, T, 1]; None where there is no padding.
        cos: Of each position's angles, for every head [B, T, H, K].
        sin: The same, the first half of each head negative.
        padding: So many of all positions seen are each row's padding, where rows are computed apart; None elsewhere.
    """

    past: DynamicCache
    bias: Tensor | None
    read: Tensor | None
    cos: Tensor
    sin: Tensor
    padding: list[int] | None


def is_known(language_model: nn.Module) -> bool:
    """Whether this is a language model whose layers are written here."""
    kind = type(language_model)
    return kind.__name__ in KNOWN and kind.__module__.startswith("transformers.") and _has_silu(language_model)


def read(
    model: Any,
    inputs_BTE: Tensor,
    mask_BS: Tensor,
    positions_BT: Tensor,
    past: DynamicCache,
    last: bool,
    takes_along: bool,
    apart: bool,
) -> Tensor:
    """The last layer's states, normed [B, T, E]; of the `last` position alone where that is asked [B, 1, E].

    Args:
        model: A language model that `is_known`, without its head.
        inputs_BTE: Embeddings.
        mask_BS: 1 for words and 0 for padding, of all that is seen.
        positions_BT: The positions' numbers.
        past: What was read before, and grows.
        last: Whether the last position's states are all that is asked.
        takes_along: Whether oneDNN computes bf16 linears here, and can multiply on the way.
        apart: Whether each row's numbers are to the last bit those that it has alone.
    """
    before, after, feed_forward, linears, norm = KNOWN[type(model).__name__]
    seen, states_BTE = _seen(model, inputs_BTE, mask_BS, positions_BT, past, apart), inputs_BTE
    layers = model.layers[: model.config.num_hidden_layers]
    for layer in layers:
        normed_BTE = getattr(layer, before)(states_BTE)
        if (attention := getattr(layer, "self_attn", None)) is None:
            states_BTE = states_BTE + _convolve(layer.conv, normed_BTE, seen)
        else:
            ends = last and layer is layers[-1]
            states_BTE = states_BTE[:, -1:] if ends else states_BTE
            states_BTE = states_BTE + _attend(attention, normed_BTE, seen, ends)
        block = getattr(layer, feed_forward)
        gate, up, down = (getattr(block, name) for name in linears)
        states_BTE = states_BTE + _feed(gate, up, down, getattr(layer, after)(states_BTE), takes_along, seen)
    return cast(Tensor, getattr(model, norm)(states_BTE[:, -1:] if last else states_BTE))


def fits(model: Any, mask: Any, positions: Any, past: Any, inputs: Any, others: dict[str, Any]) -> bool:
    """Whether a call asks for nothing that `read` leaves out, and nobody listens to what is within the layers."""
    config = model.config
    given = all(isinstance(part, Tensor) for part in (mask, positions, inputs)) and mask.ndim == positions.ndim == 2
    if not given or type(past) is not DynamicCache or len(past.layers) < len(model.layers) or model.training:
        return False
    kept = all(type(layer) is DynamicLayer or hasattr(layer, "conv_states") for layer in past.layers)
    asked = {name for name, value in others.items() if value is not None and value is not False}
    told = asked <= {"return_dict"} and not config.output_hidden_states and not config.output_attentions
    plain = (
        inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and config._attn_implementation in ("sdpa", CPU)
    )
    return kept and told and plain and not _is_watched(model)


def _is_watched(model: Any) -> bool:
    """Whether somebody has put a hook on a layer, or on a part whose own call `read` leaves out."""
    watched = [part for layer in model.layers for part in (layer, *layer.children())]
    return any(part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook") for part in watched)


def _has_silu(language_model: Any) -> bool:
    config = language_model.config
    return config.model_type == "lfm2" or getattr(config, "hidden_act", None) == "silu"


def _seen(model: Any, inputs_BTE: Tensor, mask_BS: Tensor, positions_BT: Tensor, past: DynamicCache, apart: bool) -> Seen:
    now = inputs_BTE.shape[1]
    padded, width = not bool(mask_BS.all()), mask_BS.shape[1]
    apart = apart and len(mask_BS) > 1 and now in (1, width)
    padding = (width - mask_BS.sum(1)).tolist() if apart else None
    bias = None
    if padding is None and (padded or 1 < now < width):
        visible = mask_BS[:, None, None, :].bool()
        if now > 1:
            visible = visible & torch.ones(now, width, dtype=torch.bool).tril(width - now)
        # Not minus infinity: a row of padding sees nothing, and has numbers all the same.
        bias = torch.zeros(visible.shape, dtype=inputs_BTE.dtype)
        bias.masked_fill_(~visible, torch.finfo(inputs_BTE.dtype).min / 2)
    cos_BTK, sin_BTK = model.rotary_emb(inputs_BTE, position_ids=positions_BT)
    half = sin_BTK.shape[-1] // 2
    sin_BTK = torch.cat([-sin_BTK[..., :half], sin_BTK[..., half:]], -1)
    heads = model.config.num_attention_heads
    cos, sin = (part[:, :, None].expand(len(part), now, heads, -1).contiguous() for part in (cos_BTK, sin_BTK))
    read = mask_BS[:, -now:, None].to(inputs_BTE.dtype) if padded and now > 1 else None
    return Seen(past, bias, read, cos, sin, padding)


def _turn(states_BTHK: Tensor, seen: Seen, positions: slice) -> Tensor:
    """Queries or keys by their positions: x cos + swapped(x) sin, with the halves of each head swapped."""
    heads, half = states_BTHK.shape[2], states_BTHK.shape[3] // 2
    swapped = torch.empty_like(states_BTHK)
    swapped[..., :half], swapped[..., half:] = states_BTHK[..., half:], states_BTHK[..., :half]
    cos, sin = seen.cos[:, positions, :heads], seen.sin[:, positions, :heads]
    return (states_BTHK * cos).addcmul_(swapped, sin).transpose(1, 2)


def _attend(attention: Any, states_BTE: Tensor, seen: Seen, ends: bool) -> Tensor:
    """Attention of all positions [B, T, E], or of the last one [B, 1, E] where the layer `ends` the model."""
    asked = slice(-1, None) if ends else slice(None)

    def heads(linear: Callable[[Tensor], Tensor], norm: str, states: Tensor) -> Tensor:
        parted = _product(linear, states, seen).unflatten(-1, (-1, attention.head_dim))
        return getattr(attention, norm)(parted) if hasattr(attention, norm) else parted

    query = _turn(heads(attention.q_proj, "q_layernorm", states_BTE[:, asked]), seen, asked)
    key = _turn(heads(attention.k_proj, "k_layernorm", states_BTE), seen, slice(None))
    value = heads(attention.v_proj, "", states_BTE).transpose(1, 2)
    key, value = seen.past.update(key, value, attention.layer_idx)
    if seen.padding is None:
        bias = None if seen.bias is None else seen.bias[:, :, asked]
        mixed_BTHK, _ = sdpa_attention_forward(attention, query, key, value, bias, scaling=attention.scaling)
    else:
        mixed_BTHK = _mix_apart(attention, query, key, value, seen.padding)
    leave = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj
    return _product(leave, mixed_BTHK.flatten(2), seen)


def _mix_apart(attention: Any, query_BHTK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, padding: list[int]) -> Tensor:
    """What attention sees [B, T, H, K], of each row without its padding: where sums begin decides how they are rounded."""
    mixed_BTHK = query_BHTK.new_zeros(query_BHTK.shape).transpose(1, 2)
    for index, left in enumerate(padding):
        row, first = slice(index, index + 1), 0 if query_BHTK.shape[2] == 1 else left
        states = (query_BHTK[row, :, first:], key_BHSK[row, :, left:], value_BHSK[row, :, left:])
        mixed_BTHK[row, first:] = sdpa_attention_forward(attention, *states, None, scaling=attention.scaling)[0]
    return mixed_BTHK


def _product(linear: Callable[[Tensor], Tensor], states_BTE: Tensor, seen: Seen) -> Tensor:
    """A linear's product. Long sums of many positions depend on how many there are (see `SHORT`): of each row by themselves."""
    if seen.padding is None or states_BTE.shape[1] == 1 or states_BTE.shape[2] <= SHORT:
        return linear(states_BTE)
    rows = zip(states_BTE.split(1), seen.padding, strict=True)
    return torch.cat([pad(linear(row[:, left:]), (0, 0, left, 0)) for row, left in rows])


def _convolve(block: Any, states_BTE: Tensor, seen: Seen) -> Tensor:
    """out(c * convolved(b * x)), of a projection's three parts b, c and x, over rows that stay as products leave them."""
    now, weight = states_BTE.shape[1], block.conv.weight
    if seen.read is not None:
        states_BTE = states_BTE * seen.read
    before_BTC, after_BTC, inner_BTC = _product(block.in_proj, states_BTE, seen).chunk(3, dim=-1)
    gated_BCT = (before_BTC * inner_BTC).transpose(1, 2)
    kept = seen.past.layers[block.layer_idx]
    if now == 1 and kept.conv_states[0] is not None:
        window_BCL = torch.cat([kept.conv_states[0][..., 1:], gated_BCT], -1)
        kept.conv_states[0] = window_BCL
        summed_BC = torch.linalg.vecdot(window_BCL.float(), weight[:, 0].float())
        mixed_BTC = (summed_BC if block.conv.bias is None else summed_BC + block.conv.bias)[:, None].to(states_BTE.dtype)
    else:
        length = weight.shape[-1]
        whole_BCT = seen.past.update_conv_state(gated_BCT, block.layer_idx, conv_kernel_size=length)
        # A view that oneDNN knows as channels last.
        convolved = conv2d(
            whole_BCT.unsqueeze(2), weight.unsqueeze(2), block.conv.bias, padding=(0, length - 1), groups=len(weight)
        )
        mixed_BTC = convolved[:, :, 0, whole_BCT.shape[2] - now : whole_BCT.shape[2]].transpose(1, 2)
    return _product(block.out_proj, after_BTC * mixed_BTC, seen)


def _feed(gate: nn.Module, up: nn.Module, down: nn.Module, states_BTE: Tensor, takes_along: bool, seen: Seen) -> Tensor:
    """down(silu(gate x) * up x)."""
    inner = _product(partial(_gated, gate, up, takes_along), states_BTE, seen)
    return _product(down, inner, seen)


def _gated(gate: nn.Module, up: nn.Module, takes_along: bool, states_BTE: Tensor) -> Tensor:
    """silu(gate x) * up x."""
    gated = silu(gate(states_BTE), inplace=True)
    if (
        takes_along
        and states_BTE.shape[1] > 1
        and type(up) in (nn.Linear, PackedLinear)
        and states_BTE.dtype == up.weight.dtype == torch.bfloat16
    ):
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(states_BTE, gated, up.weight, up.bias, "mul"))
    return gated.mul_(up(states_BTE))
