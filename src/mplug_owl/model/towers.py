"""Any transformers vision encoder as f_V: what a foreign tower takes and gives.

A tower is asked for one thing, its last hidden states [I, P, D] of square pictures [I, 3, S, S].
"""

from copy import deepcopy
from typing import Any, Unpack

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import TransformersKwargs


def image_size(config: PreTrainedConfig) -> int:
    """The side in pixels of the square pictures that a tower of this config takes."""
    side = getattr(config, "image_size", None)
    if side is None and hasattr(config, "num_patches"):  # SigLIP 2 of variable resolution: a square of its patches
        return int(config.num_patches**0.5) * config.patch_size
    if isinstance(side, (list, tuple)):
        side = side[0]
    return int(side) if side is not None else 224


def encode_images(
    tower: PreTrainedModel, pixels_ICHW: Tensor, **kwargs: Unpack[TransformersKwargs]
) -> BaseModelOutputWithPooling:
    """Run a tower; `last_hidden_state` is [I, P, D] whatever the tower's own layout is."""
    pixels_ICHW = pixels_ICHW.to(tower.dtype)  # some towers do so themselves; ConvNeXt and Swin do not
    if tower.config.model_type == "siglip2_vision_model":
        pictures = _as_patches(pixels_ICHW, tower.config.patch_size)
    else:
        pictures = {"pixel_values": pixels_ICHW}
    outputs = tower(**pictures, **kwargs, return_dict=True)
    if outputs.last_hidden_state.ndim == 4:  # convolutional towers: [I, D, height, width]
        outputs.last_hidden_state = outputs.last_hidden_state.flatten(2).transpose(1, 2)
    return outputs


def vision_tokens(config: PreTrainedConfig) -> int:
    """P, how many tokens a tower of this config gives a picture: measured on the meta device, so right for any tower."""
    side = image_size(config)
    with torch.device("meta"), torch.no_grad():
        tower = AutoModel.from_config(deepcopy(config)).eval()
        seen = encode_images(tower, torch.empty(1, getattr(config, "num_channels", 3), side, side)).last_hidden_state
    assert seen is not None  # noqa: S101  (transformers types what every tower gives as optional)
    return seen.shape[1]


def _as_patches(pixels_ICHW: Tensor, patch: int) -> dict[str, Any]:
    """Pictures as SigLIP 2 takes them: flat patches [I, P, patch * patch * C], nothing masked, the grid's shape."""
    patches = pixels_ICHW.unfold(2, patch, patch).unfold(3, patch, patch)  # [I, C, rows, columns, patch, patch]
    images, _, rows, columns = patches.shape[:4]
    return {
        "pixel_values": patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2),
        "pixel_attention_mask": None,
        # The grid is read as numbers, so it lives on the CPU even where nothing else does.
        "spatial_shapes": torch.tensor([[rows, columns]] * images, device="cpu"),
    }
