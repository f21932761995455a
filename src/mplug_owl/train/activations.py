"""What a forward pass keeps for its backward pass: counted by running it on tensors that have shapes but no numbers.

No coefficient of any architecture is in it, so it holds for every tower, connector and language model, and for whatever of them
is frozen. Attention is counted as a fused kernel's, and norms in the precision that autocast gives them on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map
from transformers.modeling_layers import GradientCheckpointingLayer

from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import encode_images, image_size
from mplug_owl.train.objective import read_pairs
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.trainable import checkpoint_activations, set_mode


def activation_bytes(model: MplugOwlForConditionalGeneration, recipe: Recipe, tokens: int) -> tuple[float, float]:
    """Bytes kept of one sample of so many tokens by f_L, and of one picture by f_V and f_K.

    `model` is prepared for the recipe, on the meta device, and of no use afterwards. In BLIP-2's first step f_L keeps nothing,
    and a picture is a pair with a text that fills the sample.
    """
    seeing = nn.ModuleList([model.model.vision_tower, model.model.abstractor])
    in_front = any(parameter.requires_grad for parameter in seeing.parameters())
    side, width = image_size(model.config.vision_config), model.config.text_config.hidden_size
    channels = getattr(model.config.vision_config, "num_channels", 3)

    def read(samples: int) -> Tensor:
        words = torch.empty(samples, tokens, width, requires_grad=in_front)
        return model.model.language_model(inputs_embeds=words, use_cache=False).last_hidden_state

    def see(pictures: int) -> Tensor:
        pixels = torch.empty(pictures, channels, side, side)
        patches_IPD = cast(Tensor, encode_images(model.model.vision_tower, pixels).last_hidden_state)
        if recipe.objective == "blip2":
            return read_pairs(model, patches_IPD, max(1, tokens - model.num_image_tokens))
        return model.model.abstractor(patches_IPD)

    set_mode(model, recipe.trainable)
    read_bytes = 0.0
    if recipe.objective == "generation":
        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            read_bytes = _counted(model.model.language_model, read, recipe.gradient_checkpointing)
    if not in_front:
        return read_bytes, 0.0
    try:
        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            return read_bytes, _counted(seeing, see, recipe.gradient_checkpointing)
    except DataDependentOutputException:
        # SigLIP 2 reads its grid as numbers, which the meta device lets it. That has no autocast: an upper bound, fp32's.
        with torch.device("meta"):
            return read_bytes, _counted(seeing, see, recipe.gradient_checkpointing)


def _counted(part: nn.Module, run: Callable[[int], Tensor], again: bool) -> float:
    """Bytes kept of one sample, on whatever tensors the surroundings make."""
    _pretend(part)
    full, layers = _each(part, run), sum(isinstance(layer, GradientCheckpointingLayer) for layer in part.modules())
    if not again or not layers:
        return full
    checkpoint_activations(part)
    return _each(part, run) + full / layers  # one layer is whole again while it is gone back through


def _each(part: nn.Module, run: Callable[[int], Tensor]) -> float:
    """Bytes that one more sample adds; what does not grow with them, such as weights in 16 bits, drops out."""
    return _kept(part, run, 2) - _kept(part, run, 1)


def _kept(part: nn.Module, run: Callable[[int], Tensor], count: int) -> int:
    """Bytes of everything that a forward pass saves, each storage once, the weights of the part aside."""
    weights = {parameter.untyped_storage()._cdata for parameter in part.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            kept.setdefault(storage, tensor)
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor), _repeated(part, kept) as left_out:
        run(count)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + sum(left_out)


@contextmanager
def _repeated(part: nn.Module, kept: dict[int, Tensor]) -> Iterator[list[int]]:
    """Of layers that are alike, and are given alike, only two are run; those after them keep what the second kept.

    The first may keep what all share, such as a mask. Yields the bytes that the layers left out would have kept.
    """
    layers = [layer for layer in part.modules() if isinstance(layer, GradientCheckpointingLayer)]
    second: dict[object, tuple[int, object] | None] = {}
    left_out: list[int] = []

    def run(layer: nn.Module, forward: Callable[..., object], *args: object, **kwargs: object) -> object:
        given = [_shape(leaf) for leaf in tree_leaves((args, kwargs))]
        key = (type(layer), *map(_shape, layer.parameters()), torch.is_grad_enabled(), *given)
        if known := second.get(key):
            left_out.append(known[0])
            return tree_map(_like, known[1])
        before = len(kept)
        out = forward(*args, **kwargs)
        new = sum(tensor.untyped_storage().nbytes() for tensor in list(kept.values())[before:])
        second[key] = (new, out) if key in second else None
        return out

    before = [vars(layer).get("forward") for layer in layers]  # of those that are computed again
    for layer in layers:
        layer.forward = partial(run, layer, layer.forward)
    try:
        yield left_out
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _shape(leaf: object) -> object:
    return (tuple(leaf.shape), leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else repr(leaf)


def _like(leaf: object) -> object:
    return torch.empty_like(leaf, requires_grad=leaf.requires_grad) if isinstance(leaf, Tensor) else leaf


def _pretend(part: nn.Module) -> None:
    """Put tensors that the surroundings make in place of the part's: those on the meta device autocast would pass over."""
    made: dict[int, nn.Parameter] = {}
    for module in part.modules():
        if hasattr(module, "layerdrop"):  # OPT draws which layers to leave out, and fake tensors have no numbers
            module.training = False
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad)
                module._parameters[name] = made.setdefault(id(parameter), fake)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
