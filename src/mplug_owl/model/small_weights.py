"""Weights that are only read, kept as a CPU's kernels like them: bf16 laid out for oneDNN, or int8.

A word costs as long as its weights take to be read, so decoding gains what the weights lose (benchmarks/words.py). Only the
language model's linears and its head change; what sees keeps its numbers. Such a model answers, and is neither trained nor
saved.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mplug_owl.errors import UserError
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

# What `load` and `find` take beside the names of torch's dtypes.
INT8 = "int8"
# A large weight takes long to be read, and is laid out for one row, a word. One that fits into a core's cache serves any number
# of rows at the speed of 64: laid out for one, 1,760 rows take up to 1.4 times as long (192 x 2048, Xeon with AMX).
LARGE, ROWS = 2**20, 64


class PackedLinear(nn.Module):
    """x W^T + b with bf16 weights in the layout that oneDNN's kernels read, made once in place of at every product.

    The operator is the one that torch.compile has bf16 linears computed by on a CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows = 1 if linear.weight.numel() > LARGE else ROWS
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        return product


def pack(model: MplugOwlForConditionalGeneration) -> None:
    """Lay a bf16 model's weights out for oneDNN. Nothing happens elsewhere: on another device, in fp32, on an older CPU."""
    operators: Any = torch.ops.mkldnn
    if model.device.type != "cpu" or not hasattr(operators, "_linear_pointwise") or not operators._is_mkldnn_bf16_supported():
        return
    for name, linear in _read_only(model).items():
        if linear.weight.dtype == torch.bfloat16:
            model.set_submodule(name, PackedLinear(linear))


def to_int8(model: MplugOwlForConditionalGeneration) -> None:
    """Give an fp32 model int8 weights, a scale for each row; what they are multiplied with is rounded to int8 as it comes.

    Raises:
        UserError: The model is not on a CPU, or this PyTorch has no dynamic quantisation.
    """
    if model.device.type != "cpu":
        raise UserError(f"dtype int8 is for a CPU and the model is on {model.device}; leave it out, or add --device cpu")
    try:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
    except ImportError as error:
        raise UserError("dtype int8: this PyTorch has no torch.ao.quantization; expected bfloat16 or float32") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that its quantisation moves to torchao
        quantize_dynamic(model, dict.fromkeys(_read_only(model), per_channel_dynamic_qconfig), inplace=True)


def _read_only(model: MplugOwlForConditionalGeneration) -> dict[str, nn.Linear]:
    """The linears whose weights every word reads: the language model's and the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith(("model.language_model.", "lm_head"))
    }
