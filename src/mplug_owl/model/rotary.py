"""Rotary positions in fewer passes over memory, for training: LLaMA's, which most language models copy.

transformers' turn a half of each head by writing it out twice and adding; here each half is written once, there and back.
"""

from types import FunctionType, MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

# What a layer's forward pass calls, and what that calls.
NAMES = ("apply_rotary_pos_emb", "rotate_half")


def use_quick_rotary(language_model: nn.Module) -> list[nn.Module]:
    """Have layers turn queries and keys by `rotate` where they turn them as LLaMA's do; returns these layers.

    A layer keeps transformers' forward pass, with another function under the name of the one that it calls. The module of
    its class, which other models of the process share, stays as it is.
    """
    quick = list[nn.Module]()
    for layer in language_model.modules():
        forward = type(layer).forward
        if isinstance(forward, FunctionType) and "forward" not in vars(layer) and _turns_as_llama(forward):
            ours = FunctionType(
                forward.__code__,
                {**forward.__globals__, NAMES[0]: _rotate_both},
                forward.__name__,
                forward.__defaults__,
                forward.__closure__,
            )
            ours.__kwdefaults__ = forward.__kwdefaults__
            vars(layer)["forward"] = MethodType(ours, layer)
            quick.append(layer)
    return quick


def rotate(states_BHTK: Tensor, cos_B1TK: Tensor, sin_B1TK: Tensor) -> Tensor:
    """Each pair (k, k + K/2) of states [B, H, T, K] turned by its position's angle, whose halves over K are alike."""
    return cast(Tensor, _Rotation.apply(states_BHTK, cos_B1TK, sin_B1TK))


def _rotate_both(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    if query.shape[-1] % 2:  # no pairs: a part of a very narrow head, which transformers' function takes somehow
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        return cast(tuple[Tensor, Tensor], apply_rotary_pos_emb(query, key, cos, sin, unsqueeze_dim=unsqueeze_dim))
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return rotate(query, cos, sin), rotate(key, cos, sin)


def _turns_as_llama(forward: FunctionType) -> bool:
    """Whether a forward pass calls functions that are LLaMA's, letter by letter."""
    from transformers.models.llama import modeling_llama  # when first asked: an import of ours does not read LLaMA's layers

    if NAMES[0] not in forward.__code__.co_names:
        return False
    theirs, llamas = ([_code(held.get(name)) for name in NAMES] for held in (forward.__globals__, vars(modeling_llama)))
    return None not in theirs and theirs == llamas


def _code(function: Any) -> tuple[object, ...] | None:
    code = getattr(function, "__code__", None)
    return None if code is None else tuple(getattr(code, part) for part in ("co_code", "co_names", "co_varnames"))


class _Rotation(torch.autograd.Function):
    """The backward pass of a turn is the turn by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = states.shape[-1] // 2
        ctx.save_for_backward(cos[..., :half], sin[..., :half])
        ctx.dtype = states.dtype
        return _turned(states, cos[..., :half], sin[..., :half])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradients[0], cos, -sin).to(ctx.dtype), None, None


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, -1)
    turned = states.new_empty(states.shape, dtype=torch.result_type(states, cos))
    to_first, to_second = turned.chunk(2, -1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin)
    return turned
