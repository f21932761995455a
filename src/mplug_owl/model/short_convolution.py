"""LFM2's short convolutions over rows that stay as products leave them, [B, T, C]: transformers' turn them and back.

The same bits: what is computed is the same convolution, by oneDNN's kernel for channels that come last.
"""

from functools import partial
from typing import Any, cast

from torch import Tensor, nn

# transformers' layer of this kind.
KNOWN = "Lfm2ShortConv"


def use_quick_convolutions(language_model: nn.Module) -> list[nn.Module]:
    """Have LFM2's convolutions computed with channels last where no cache is kept, as in training; returns these layers."""
    quick = [layer for layer in language_model.modules() if type(layer).__name__ == KNOWN]
    for layer in quick:
        vars(layer)["forward"] = partial(_forward, layer)
    return quick


def _forward(
    layer: Any, hidden_states: Tensor, past_key_values: object = None, attention_mask: Tensor | None = None, **kwargs: object
) -> Tensor:
    """out(c * convolved(b * x)), of a projection's three parts b, c and x."""
    if past_key_values is not None or hidden_states.device.type != "cpu":
        return cast(
            Tensor,
            type(layer).forward(layer, hidden_states, past_key_values=past_key_values, attention_mask=attention_mask, **kwargs),
        )
    if attention_mask is not None:
        hidden_states = (hidden_states * attention_mask[:, :, None]).to(hidden_states.dtype)
    before_BTC, after_BTC, states_BTC = layer.in_proj(hidden_states).chunk(3, dim=-1)
    gated_BC1T = (before_BTC * states_BTC).transpose(1, 2).unsqueeze(2)  # a view that oneDNN knows as channels last
    weight, width = layer.conv.weight.unsqueeze(2), layer.conv.weight.shape[-1]
    convolved = nn.functional.conv2d(gated_BC1T, weight, layer.conv.bias, padding=(0, width - 1), groups=len(weight))
    mixed_BTC = convolved[..., : hidden_states.shape[1]].squeeze(2).transpose(1, 2)
    return cast(Tensor, layer.out_proj(after_BTC * mixed_BTC))
