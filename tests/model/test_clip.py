"""CLIP's weights in the original's own tower."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from mplug_owl.errors import UserError
from mplug_owl.model.clip import load_vision
from tests.model.test_build import trained
from tests.tiny import VISIONS, tiny_config


def test_clip_becomes_the_originals_encoder(tmp_path: Path) -> None:
    """How the original's f_V began: the same numbers, with the last norm over every token."""
    values = {**VISIONS["clip"], "layer_norm_eps": 1e-6, "hidden_act": "quick_gelu"}
    clip = trained(tmp_path, AutoModel, values)
    tower, pixels = load_vision(str(tmp_path), tiny_config()).eval(), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        theirs = clip.post_layernorm(clip(pixels).last_hidden_state)
        torch.testing.assert_close(tower(pixels).last_hidden_state, theirs, atol=5e-6, rtol=0)  # worst measured 0


def test_another_encoder_is_no_clip(tmp_path: Path) -> None:
    trained(tmp_path, AutoModel, VISIONS["siglip"])
    with pytest.raises(UserError, match="a siglip_vision_model; the original's vision encoder starts from CLIP"):
        load_vision(str(tmp_path), tiny_config())
