"""Trained weights for f_V: any transformers vision encoder as it is, and CLIP's under the names of the original's tower."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import refuse_gaps, usable
from mplug_owl.model.config import MplugOwlConfig

# What has to be the same in CLIP and the original's tower.
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
)


def load_vision(path: str, config: MplugOwlConfig) -> PreTrainedModel:
    """Trained weights for f_V from a folder or a hub id.

    CLIP's go into the original's own tower where the config asks for that one. Its norms keep the config's epsilon: the
    original began from CLIP, whose is 1e-5, with 1e-6.

    Raises:
        UserError: There is no encoder, a file is damaged, weights are missing, or another encoder's, or a CLIP of another kind,
            would go into the original's tower.
    """
    with usable("vision", path, "vision encoder"):
        found = AutoConfig.from_pretrained(path)
    wanted = config.vision_config
    if wanted.model_type != "mplug_owl_vision_model" or found.model_type == wanted.model_type:
        return _whole(path, found)
    if found.model_type not in ("clip", "clip_vision_model"):
        raise UserError(
            f"{path}: a {found.model_type}; the original's vision encoder starts from CLIP. "
            f"For another encoder put its own config into vision_config"
        )
    _refuse_other_kinds(path, getattr(found, "vision_config", found), wanted)
    clip = _whole(path, found)
    tower = AutoModel.from_config(wanted)
    tower.load_state_dict(clip_to_owl(clip.state_dict(), wanted.num_attention_heads))
    return tower


def _whole(path: str, found: PreTrainedConfig) -> PreTrainedModel:
    """The encoder, of a model that reads too the half that sees, with no weight that transformers had to make up."""
    read: Any = AutoModel.from_pretrained  # which gives two things where it is asked to
    asked: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with usable("vision", path, "vision encoder"):
        model, info = read(path, config=getattr(found, "vision_config", found), **asked)
    refuse_gaps("vision", path, info)
    return model


def _refuse_other_kinds(path: str, clip: PreTrainedConfig, tower: PreTrainedConfig) -> None:
    """Raises UserError where CLIP's weights would compute something else in the original's tower."""
    known = {name: getattr(tower, name) for name in _SIZES} | {"hidden_act": "quick_gelu"}
    for name, expected in known.items():
        if (given := getattr(clip, name)) != expected:
            raise UserError(
                f"{path}: a CLIP with {name} {given}, and the original's vision encoder in vision_config has {expected}; "
                "put the CLIP's own config into vision_config"
            )


def clip_to_owl(clip: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """CLIP's vision weights under the names of the original's tower, queries, keys and values fused head by head."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in clip.items():
        name = name.removeprefix("vision_model.")
        if "position_ids" in name:
            continue
        if ".self_attn." in name and ".out_proj." not in name:
            if ".q_proj." in name:
                parts = [clip[_sibling(clip, name, letter)] for letter in "qkv"]
                split = [part.unflatten(0, (heads, -1)) for part in parts]
                renamed[_rename(name).replace("q_proj", "query_key_value")] = torch.cat(split, dim=1).flatten(0, 1)
            continue
        renamed[_rename(name)] = tensor.reshape(1, 1, -1) if name.endswith("class_embedding") else tensor
        if name.endswith("position_embedding.weight"):
            renamed[_rename(name)] = tensor.unsqueeze(0)
    return renamed


def _sibling(clip: dict[str, Tensor], name: str, letter: str) -> str:
    found = name.replace("q_proj", f"{letter}_proj")
    return found if found in clip else f"vision_model.{found}"


def _rename(name: str) -> str:
    for theirs, ours in (
        ("embeddings.class_embedding", "embeddings.cls_token"),
        ("embeddings.position_embedding.weight", "embeddings.position_embedding"),
        ("embeddings.patch_embedding.", "embeddings.patch_embed."),
        ("pre_layrnorm.", "embeddings.pre_layernorm."),
        ("encoder.layers.", "layers."),
        ("self_attn.out_proj.", "self_attn.dense."),
        ("layer_norm1.", "input_layernorm."),
        ("layer_norm2.", "post_attention_layernorm."),
    ):
        name = name.replace(theirs, ours)
    return name
