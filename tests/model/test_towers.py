"""Any vision encoder: how many pixels it takes and how many tokens it gives."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from mplug_owl import MplugOwlConfig, MplugOwlVisionConfig
from mplug_owl.errors import UserError
from mplug_owl.model.towers import encode_images, image_size, vision_tokens
from tests.tiny import CONNECTORS, LANGUAGES, VISIONS, picture, tiny_owl, tiny_processor

TOKENS = {"own": 5, "clip": 5, "siglip": 4, "siglip2": 4, "dinov2": 5, "dinov2-registers": 7}


@pytest.mark.parametrize("vision", VISIONS)
def test_tokens_are_counted_without_running_it(vision: str) -> None:
    config = AutoConfig.for_model(**VISIONS[vision])
    assert image_size(config) == 28
    assert vision_tokens(config) == TOKENS[vision]
    seen = encode_images(AutoModel.from_config(config).eval(), torch.randn(2, 3, 28, 28))
    assert seen.last_hidden_state.shape == (2, TOKENS[vision], 16)


def test_the_side_of_a_picture_however_a_config_says_it() -> None:
    assert image_size(AutoConfig.for_model("siglip2_vision_model", num_patches=9, patch_size=16)) == 3 * 16
    assert image_size(PreTrainedConfig(image_size=[30, 40])) == 30
    assert image_size(PreTrainedConfig(image_size=(30, 40))) == 30
    assert image_size(PreTrainedConfig()) == 224


def test_a_tower_may_see_other_channels_than_three() -> None:
    config = AutoConfig.for_model(**VISIONS["own"], num_channels=4)
    assert vision_tokens(config) == 5
    assert encode_images(AutoModel.from_config(config), torch.randn(1, 4, 28, 28)).last_hidden_state.shape == (1, 5, 16)


def test_the_papers_encoder_gives_257() -> None:
    assert vision_tokens(MplugOwlVisionConfig()) == 257  # 16 x 16 patches and the class token


def test_a_convolutional_encoder_is_read_place_by_place() -> None:
    config = AutoConfig.for_model("convnext", image_size=64, hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1])
    assert vision_tokens(config) == 4  # 64 pixels, halved five times


def test_siglip_2_sees_the_picture_as_siglip_does() -> None:
    """Its pictures come as flat patches; in the same order and with the same weights it is the same encoder."""
    first, second = (AutoModel.from_config(AutoConfig.for_model(**VISIONS[name])).eval() for name in ("siglip", "siglip2"))
    weights = {name: tensor for name, tensor in first.state_dict().items() if "patch_embedding" not in name}
    kernel = first.state_dict()["embeddings.patch_embedding.weight"]
    weights["embeddings.patch_embedding.weight"] = kernel.permute(0, 2, 3, 1).flatten(1)
    weights["embeddings.patch_embedding.bias"] = first.state_dict()["embeddings.patch_embedding.bias"]
    second.load_state_dict(weights)
    pixels = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(encode_images(second, pixels).last_hidden_state, encode_images(first, pixels).last_hidden_state)


STAGES = {
    "convnext": {"image_size": 64, "hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]},
    "swin": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
}


@torch.no_grad()
@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("connector", CONNECTORS)
def test_an_encoder_in_stages_is_an_owls_in_any_precision(kind: str, connector: str) -> None:
    """Its width is that of its last stage, and pixels in fp32 go into weights in bf16."""
    small = {"connector": connector, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MplugOwlConfig(
        vision_config={"model_type": kind, **STAGES[kind]},
        visual_abstractor_config=small,
        text_config=LANGUAGES["llama"],
        num_query_tokens=3,
    )
    owl = tiny_owl(config)
    inputs = tiny_processor(owl)(text="a<image>b", images=[picture()])
    assert owl(**inputs).logits.dtype == torch.float32
    assert owl.bfloat16()(**inputs).logits.isfinite().all()


def test_an_encoder_that_does_not_say_its_width_is_named() -> None:
    with pytest.raises(UserError, match="vision_config: a timm_wrapper does not say by hidden_size how wide its tokens are"):
        MplugOwlConfig(vision_config={"model_type": "timm_wrapper"})
