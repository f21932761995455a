"""LoRA for narrow layers: each pass adds the adapter to its weight, then makes one product where there were three.

peft computes x W + x A B s, and casts x to the adapter's dtype and back. Where the rank is no small part of the width, as in
the tiny recipes, the products by A and B cost as much as the one by W. W + A B s is a small matrix: its gradient is one
product, and A's and B's gradients come from it. The same learning, rounded otherwise: under autocast to bf16 once, as a
weight that is trained itself.
"""

from functools import partial
from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def merge_in_passes(learner: nn.Module) -> list[nn.Module]:
    """Have the LoRA layers below computed with their merged weight where it takes fewer products; returns these layers.

    Layers with dropout keep peft's way: there the adapter sees other values than the weight does. The weights stay in fp32
    (`HalfWeights` leaves alone what stands in a changed forward), for what is added to them may be small.
    """
    merged = list[nn.Module]()
    for module in learner.modules():
        if isinstance(module, Linear) and _is_plain(module) and _is_narrow(module):
            vars(module)["forward"] = partial(_merged, module)
            merged.append(module)
    return merged


def _merged(layer: Any, states: Tensor) -> Tensor:
    """x (W + A B s), the sum in the adapter's dtype, fp32."""
    if layer.disable_adapters:
        return cast(Tensor, layer.get_base_layer()(states))
    (name,) = layer.active_adapters
    base, down, up = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    with torch.autocast(states.device.type, enabled=False):
        weight = torch.addmm(base.weight.to(up.dtype), up, down, alpha=layer.scaling[name])
    return nn.functional.linear(states, weight, base.bias)


def _is_plain(layer: Any) -> bool:
    """Whether it is one adapter of LoRA as published, without dropout, bias or a variant, on a linear layer."""
    names = layer.active_adapters
    return (
        len(names) == 1
        and type(layer.get_base_layer()) is nn.Linear
        and not layer.lora_variant
        and not layer.lora_bias[names[0]]
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
    )


def _is_narrow(layer: Any) -> bool:
    """Whether one product is quicker than the thin ones that wait for memory.

    By A and B, there and back, they take 3 r (in + out) operations a position, the merged weight's gradient in * out. With
    rank 32 it was quicker up to 1.5 times as many, and wider layers were not tried.
    """
    rank = layer.r[layer.active_adapters[0]]
    wide, high = cast(nn.Linear, layer.get_base_layer()).weight.shape
    return wide * high <= 5 * rank * (wide + high)
