"""The language model's weights in a byte or half of one, for memory: frozen under LoRA, QLoRA's way, or for answering.

f_V, f_K, the head and the embeddings keep their numbers; what changes is each linear layer inside the language model. They are
chosen as modules and not by name, for a list of names that matches nothing says nothing. Such a model is never saved: weights
that were learned beside it are merged into those of the model it was made of.
"""

from collections.abc import Callable
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from mplug_owl.errors import UserError
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

Quantisation = Literal["int8", "nf4"]
# Bytes a weight takes: nf4 is 4 bits, with a scale of 8 bits for 64 weights and one of 32 for 256 of those (arXiv 2305.14314).
BYTES: dict[Quantisation, float] = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}


class QuantisedLinear(nn.Module):
    """x W^T + b of a frozen weight that is unpacked whenever it is read, forward and back.

    int8 has one scale for each row, the largest weight's; nf4 is bitsandbytes' with doubly quantised scales.
    """

    def __init__(self, linear: nn.Linear, kind: Quantisation) -> None:
        super().__init__()
        self.kind, self.in_features, self.out_features = kind, linear.in_features, linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach().float()
        if kind == "int8":
            scale_O1 = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
            self.register_buffer("packed", (weight / scale_O1).round().to(torch.int8), persistent=False)
            self.register_buffer("scale_O1", scale_O1, persistent=False)
        else:
            # In one row: on a CPU bitsandbytes 0.50.2 unpacks rows of 32, 96, 160, ... weights wrongly.
            packed, self.blocks = _bitsandbytes().quantize_4bit(weight.flatten(), quant_type="nf4", compress_statistics=True)
            self.register_buffer("packed", packed, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves the weight moves its scales too; they keep fp32."""
        scale = getattr(self, "scale_O1", None)
        super()._apply(fn, recurse)
        if scale is not None:
            self.scale_O1 = scale.to(self.packed.device)
        else:
            self.blocks.to(self.packed.device)
        return self

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in]."""
        if self.kind == "int8":
            return (self.packed * self.scale_O1).to(dtype)
        flat = cast(Tensor, _bitsandbytes().dequantize_4bit(self.packed, self.blocks))
        return flat.view(self.out_features, self.in_features).to(dtype)

    def forward(self, states: Tensor) -> Tensor:
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        product = cast(Tensor, _Product.apply(states.to(dtype), self))
        return product if self.bias is None else product + self.bias.to(dtype)

    def extra_repr(self) -> str:
        """Sizes and kind, as torch prints a module."""
        return f"{self.in_features}, {self.out_features}, {self.kind}"


class _Product(torch.autograd.Function):
    """States times an unpacked weight, which is not kept for the backward pass but unpacked again."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(states, layer.unpacked(states.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.unpacked(gradients[0].dtype), None


def quantise(model: MplugOwlForConditionalGeneration, kind: Quantisation) -> list[str]:
    """Quantise the linear layers of the language model, those inside LoRA layers too; returns their names.

    Raises:
        UserError: There is none, or nf4's package bitsandbytes is not installed.
    """
    names = [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith("model.language_model.") and ".lora_" not in name
    ]
    if not names:
        raise UserError(f"{kind}: {model.config.text_config.model_type} has no linear layers that could be quantised")
    for name in names:
        model.set_submodule(name, QuantisedLinear(cast(nn.Linear, model.get_submodule(name)), kind))
    return names


def unquantise(model: MplugOwlForConditionalGeneration, original: MplugOwlForConditionalGeneration) -> None:
    """Put the layers of the model it was made of in place of the quantised ones, so that adapters are merged into those."""
    for name in [name for name, module in model.named_modules() if isinstance(module, QuantisedLinear)]:
        model.set_submodule(name, original.get_submodule(name.removesuffix(".base_layer")))


def linear_weights(model: MplugOwlForConditionalGeneration) -> int:
    """How many weights `quantise` would quantise, biases aside."""
    inside = (module for name, module in model.model.language_model.named_modules() if ".lora_" not in name)
    return sum(module.weight.numel() for module in inside if type(module) is nn.Linear)


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise UserError("nf4 needs the package bitsandbytes: pip install 'mplug-owl[quantize]'; int8 needs none") from error
    return functional
