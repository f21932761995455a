"""CLIP's weights in the original's own tower."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, CLIPConfig, CLIPModel

from mplug_owl.errors import UserError
from mplug_owl.model.clip import load_vision
from tests.model.test_build import trained
from tests.tiny import VISIONS, shaken, tiny_config


def test_clip_becomes_the_originals_encoder(tmp_path: Path) -> None:
    """How the original's f_V began: the same numbers, with the last norm over every token."""
    values = {**VISIONS["clip"], "layer_norm_eps": 1e-6, "hidden_act": "quick_gelu"}
    clip = trained(tmp_path, AutoModel, values)
    tower, pixels = load_vision(str(tmp_path), tiny_config()).eval(), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        theirs = clip.post_layernorm(clip(pixels).last_hidden_state)
        torch.testing.assert_close(tower(pixels).last_hidden_state, theirs, atol=5e-6, rtol=0)  # worst measured 0


def test_of_a_whole_clip_the_seeing_half_is_taken(tmp_path: Path) -> None:
    """Most checkpoints hold both halves; either tower takes its own."""
    torch.manual_seed(0)
    text = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    seeing = {**VISIONS["clip"], "layer_norm_eps": 1e-6}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=seeing, projection_dim=8)).eval()
    shaken(whole)
    whole.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        theirs = whole.vision_model(pixels, output_hidden_states=True)
        for name in ("own", "clip"):
            tower = load_vision(str(tmp_path), tiny_config(name)).eval()
            assert tower.config.model_type == VISIONS[name]["model_type"]
            ours = tower(pixels, output_hidden_states=True)
            assert len(ours.hidden_states) == len(theirs.hidden_states) == 3
            for mine, yours in zip(ours.hidden_states, theirs.hidden_states, strict=True):
                torch.testing.assert_close(mine, yours, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("num_attention_heads", 4),
        ("num_hidden_layers", 3),
        ("intermediate_size", 48),
        ("image_size", 56),
        ("patch_size", 7),
    ],
)
def test_a_clip_of_another_kind_is_no_original(tmp_path: Path, field: str, value: object) -> None:
    """Some would fit in shape and compute something else. As itself it may see."""
    trained(tmp_path, AutoModel, {**VISIONS["clip"], field: value})
    with pytest.raises(
        UserError, match=rf"a CLIP with {field} {value}, and the original's vision encoder in vision_config has"
    ):
        load_vision(str(tmp_path), tiny_config())
    assert getattr(load_vision(str(tmp_path), tiny_config("clip")).config, field) == value


def test_another_encoder_is_no_clip(tmp_path: Path) -> None:
    trained(tmp_path, AutoModel, VISIONS["siglip"])
    with pytest.raises(UserError, match="a siglip_vision_model; the original's vision encoder starts from CLIP"):
        load_vision(str(tmp_path), tiny_config())
