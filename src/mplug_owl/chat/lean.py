"""The same numbers with less work, where nobody asks for gradients: a model's modules are prepared once, weights stay.

Of a prompt only the last position's words are asked, so its last layer has no more to compute than keys and values of the
others. Norms need fewer passes over memory, and a bf16 linear on a CPU takes its bias along in place of copying it first; a
small convolution takes its GELU along. LLaMA's and LFM2's layers are those of `lean_layers`.
Every module computes what it did before where gradients are on, where torch.compile reads it, and where it is of another kind.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache, partial
from inspect import signature
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from mplug_owl.chat.lean_layers import SHORT, fits, is_known, read
from mplug_owl.model.vision import VisionEmbeddings

# Whether whoever calls the model in this thread asks for the last position alone.
_asked: ContextVar[bool] = ContextVar("last_position_asked", default=False)
# Whether a row's numbers there are to the last bit those that it has alone.
_apart: ContextVar[bool] = ContextVar("computed_apart", default=False)


@contextmanager
def _true_within(asked: ContextVar[bool]) -> Iterator[None]:
    token = asked.set(True)
    try:
        yield
    finally:
        asked.reset(token)


def computed_apart() -> AbstractContextManager[None]:
    """A block in which 16-bit numbers of a row, or a picture, depend on no other: its long sums are computed by themselves."""
    return _true_within(_apart)


def last_position_asked() -> AbstractContextManager[None]:
    """A block in which a prepared language model gives a prompt's last position alone [B, 1, E], where it can."""
    return _true_within(_asked)


def prepare(model: nn.Module, language_model: PreTrainedModel) -> None:
    """Prepare a model and the language model in it. Modules that are prepared already, or have a hook's forward, are left."""
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is not None:
            _replace(module, _linear)
        elif _is_plain_norm(type(module)):
            _replace(module, _norm)
        elif type(module) is VisionEmbeddings:
            for stage in module.stem:
                _replace(stage, _stage)
    layers = list(getattr(language_model, "layers", []))
    if layers and hasattr(layers[-1], "self_attn") and _takes_known(type(layers[-1]).forward):
        _replace(layers[-1], _last_layer)
    if is_known(language_model):
        _replace(language_model, _language_model)


def _replace(module: Any, forward: Callable[..., Any]) -> None:
    if "forward" not in vars(module):
        module.forward = partial(forward, module)


def _learns() -> bool:
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


@cache
def _takes_known(forward: Callable[..., Any]) -> bool:
    """Whether a layer's forward pass is given what `_last_layer` divides, by these names."""
    known = {"position_embeddings", "attention_mask", "position_ids", "past_key_values"}
    return known <= set(signature(forward).parameters)


def _is_plain_norm(kind: type[nn.Module]) -> bool:
    """Whether a class's forward pass is LLaMA's norm, which transformers copies into most models' files."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm  # when first asked: whoever only imports waits less

    theirs, llama = getattr(kind.forward, "__code__", None), LlamaRMSNorm.forward.__code__
    return theirs is not None and all(
        getattr(theirs, part) == getattr(llama, part) for part in ("co_code", "co_names", "co_consts")
    )


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, the mean in fp32: one pass for its sum, and no new memory after the first."""
    if _learns() or self.weight.dtype != hidden_states.dtype:
        return type(self).forward(self, hidden_states)
    states = hidden_states.float()
    scale = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_().div_(states.shape[-1])
    scale = scale.add_(self.variance_epsilon).rsqrt_()
    normed = states * scale if states is hidden_states else states.mul_(scale)
    return normed.to(hidden_states.dtype).mul_(self.weight)


def _stage(self: Any, pixels_ICHW: Tensor) -> Tensor:
    """A stage of the stem: oneDNN computes the GELU while what was convolved is still at hand."""
    convolve, gelu = self
    plain = not _learns() and pixels_ICHW.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not plain or not (pixels_ICHW.dtype == convolve.weight.dtype == torch.bfloat16 and _takes_bias_along()):
        return nn.Sequential.forward(self, pixels_ICHW)
    how = (convolve.padding, convolve.stride, convolve.dilation, convolve.groups)
    seen: Tensor = torch.ops.mkldnn._convolution_pointwise(
        pixels_ICHW, convolve.weight, convolve.bias, *how, "gelu", [], gelu.approximate
    )
    return seen


@cache
def _takes_bias_along() -> bool:
    """Whether oneDNN computes bf16 linears here; torch.compile has them computed by the same operator."""
    return bool(hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _linear(self: Any, states: Tensor) -> Tensor:
    """x W^T + b. PyTorch's own linear copies a bf16 bias into every row before, which takes as long as the product."""
    plain = type(self.weight) is nn.Parameter and states.device.type == "cpu"  # not quantised, not in parts
    if _learns() or not plain or not (states.dtype == self.weight.dtype == torch.bfloat16 and _takes_bias_along()):
        return nn.Linear.forward(self, states)
    if _apart.get() and states.ndim == 3 and len(states) > 1 and states.shape[2] > SHORT:
        return torch.cat([_multiply(self, one) for one in states.split(1)])
    return _multiply(self, states)


def _multiply(linear: Any, states: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, linear.weight, linear.bias, "none", [], "")
    return product


def _language_model(
    self: Any,
    input_ids: Tensor | None = None,
    attention_mask: Any = None,
    position_ids: Any = None,
    past_key_values: Any = None,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Its layers as `lean_layers` has them, where nothing else is asked of it."""
    given = attention_mask, position_ids, past_key_values
    if input_ids is not None or _learns() or not fits(self, *given, inputs_embeds, kwargs):
        return type(self).forward(self, input_ids, *given, inputs_embeds, use_cache=use_cache, **kwargs)
    inputs_BTE = cast(Tensor, inputs_embeds)
    apart = _apart.get() and inputs_BTE.element_size() == 2
    states = read(self, inputs_BTE, *given, _asked.get(), _takes_bias_along(), apart)
    return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=past_key_values)


class _Stored(Exception):  # noqa: N818  (it is no error)
    """Keys and values are in the cache."""


class _StopsWhenStored:
    """A cache that ends a layer's forward pass once it has what is to be kept."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Store keys and values, then stop."""
        self.cache.update(*args, **kwargs)
        raise _Stored


def _last_layer(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The layer's own forward pass; of a prompt, where that is asked, the last position alone."""
    whole, mask = type(self).forward, kwargs.get("attention_mask")
    if args or hidden_states.shape[1] == 1 or not _asked.get() or _learns():
        return whole(self, hidden_states, *args, **kwargs)
    masked = mask is None or (isinstance(mask, Tensor) and mask.ndim == 4)
    past: Any = kwargs["past_key_values"]
    if not masked or type(past.layers[self.self_attn.layer_idx]) is not DynamicLayer:
        return whole(self, hidden_states, **kwargs)
    try:
        earlier = kwargs | {"past_key_values": _StopsWhenStored(past), "attention_mask": None}
        whole(self, hidden_states[:, :-1], **_at(earlier, slice(None, -1)))
    except _Stored:
        pass
    last = kwargs | {"attention_mask": None if mask is None else mask[:, :, -1:]}
    return whole(self, hidden_states[:, -1:], **_at(last, slice(-1, None)))


def _at(kwargs: dict[str, Any], positions: slice) -> dict[str, Any]:
    """What a layer is given, for these positions alone: their numbers [B, T] and rotations [B, T, K]."""
    turned = tuple(part[:, positions] for part in kwargs["position_embeddings"])
    numbers = kwargs.get("position_ids")
    return kwargs | {"position_embeddings": turned, "position_ids": None if numbers is None else numbers[:, positions]}
