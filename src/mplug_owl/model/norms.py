"""RMS norms in fewer passes over memory, for training: transformers' write out each operation, and autograd each backward pass.

At a laptop's size the products of a step are quick, and what is left of its time are such passes. Same values to rounding.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

# transformers' norms that are x / sqrt(mean(x^2) + eps) * weight, and nothing else.
KNOWN = ("LlamaRMSNorm", "Lfm2RMSNorm")


def use_quick_norms(language_model: nn.Module) -> list[nn.Module]:
    """Have the RMS norms that are known computed by `rms_norm`; returns these. The others stay as they are."""
    quick = list[nn.Module]()
    for name, module in language_model.named_modules():
        if type(module).__name__ in KNOWN:
            # What queries' and keys' norms give is turned by position first, in fp32.
            narrow = not name.endswith(("q_layernorm", "k_layernorm"))
            module.forward = partial(rms_norm, weight=module.weight, eps=module.variance_epsilon, narrow=narrow)
            quick.append(module)
    return quick


def rms_norm(states: Tensor, weight: Tensor, eps: float, narrow: bool = True) -> Tensor:
    """States [..., D] over the root of their mean square, times a weight [D], computed in fp32.

    Where `narrow`, under autocast, it comes in the dtype of the products that read it, so that not every one of them casts it.
    """
    kind, dtype = states.device.type, torch.result_type(states, weight)
    if narrow and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return cast(Tensor, _RMSNorm.apply(states, weight, eps, dtype))


class _RMSNorm(torch.autograd.Function):
    """`rms_norm` with its backward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = states.float()
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, inverse)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """A layer norm's backward pass, with a mean of 0. It takes the gradient's mean away too, which is put back."""
        states, weight, inverse = ctx.saved_tensors
        wide, gradient, scale = states.float().contiguous(), gradients[0].float().contiguous(), weight.float()
        found, by_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient,
            wide,
            [wide.shape[-1]],
            torch.zeros_like(inverse),
            inverse,
            scale,
            torch.zeros_like(scale),
            [True, ctx.needs_input_grad[1], False],
        )
        mean = (gradient @ scale[:, None]).mul_(inverse).div_(wide.shape[-1])
        found.add_(mean)
        return found.to(states.dtype), None if by_weight is None else by_weight.to(weight.dtype), None, None
