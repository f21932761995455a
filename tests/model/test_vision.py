"""f_V, the vision encoder."""

from pathlib import Path

import pytest
import torch

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.model.config import MplugOwlVisionConfig
from mplug_owl.model.vision import MplugOwlVisionModel
from tests.model.equations import assert_same, attention, norm, quiet
from tests.tiny import VISIONS, shaken, tiny_config, tiny_owl

OWN = VISIONS["own"]


def test_every_token_is_handed_on_the_class_token_first(owl: MplugOwlForConditionalGeneration) -> None:
    seen = owl.model.vision_tower(torch.randn(2, 3, 28, 28))
    assert seen.last_hidden_state.shape == (2, 1 + 4, 16)


def test_a_picture_has_as_many_patches_as_fit() -> None:
    tower = MplugOwlVisionModel(MplugOwlVisionConfig(**OWN | {"image_size": 42}))
    assert tower(torch.randn(1, 3, 42, 42)).last_hidden_state.shape == (1, 1 + 9, 16)
    assert tower.get_input_embeddings() is tower.embeddings.patch_embed


def test_fresh_weights_are_as_loud_as_the_config_says() -> None:
    torch.manual_seed(0)
    loud = {"initializer_range": 0.05, "hidden_size": 64, "intermediate_size": 256, "stem_channels": [32], "patch_size": 28}
    spread = {
        position: {name: weight.std().item() for name, weight in MplugOwlVisionModel(config).named_parameters()}
        for position in (None, 0.5)
        for config in [MplugOwlVisionConfig(**OWN | loud | {"position_initializer_range": position, "image_size": 56})]
    }
    for name in ("embeddings.cls_token", "layers.0.mlp.fc1.weight", "embeddings.position_embedding"):
        assert spread[None][name] == pytest.approx(0.05, rel=0.25), name
    assert spread[0.5]["embeddings.position_embedding"] == pytest.approx(0.5, rel=0.25)
    assert spread[0.5]["embeddings.cls_token"] == pytest.approx(0.05, rel=0.25)
    # He et al.: of what goes in, 3 channels of 3 x 3, half is lost behind the activation.
    assert spread[None]["embeddings.stem.0.0.weight"] == pytest.approx((2 / 27) ** 0.5, rel=0.1)


@torch.no_grad()
def test_the_encoder_is_its_equation() -> None:
    """Patches, class token, positions and a norm; layers that norm before attention and before the MLP; a norm at the end."""
    config = MplugOwlVisionConfig(**OWN | {"layer_norm_eps": 1e-4})
    torch.manual_seed(0)
    tower = MplugOwlVisionModel(config).eval().double()
    shaken(tower)
    pixels = 100 * quiet(2, 3, 28, 28)

    first = tower.embeddings
    kernel = first.patch_embed.weight.flatten(1)  # [D, 3 * 14 * 14]
    squares = [pixels[:, :, top : top + 14, left : left + 14].flatten(1) for top in (0, 14) for left in (0, 14)]
    patches = torch.stack([square @ kernel.T for square in squares], dim=1)
    tokens = torch.cat([first.cls_token.expand(2, 1, 16), patches], dim=1) + first.position_embedding
    states = norm(first.pre_layernorm, tokens, eps=1e-4)
    for layer in tower.layers:
        fused = layer.self_attn.query_key_value(norm(layer.input_layernorm, states, eps=1e-4))
        heads = fused.chunk(2, dim=-1)  # head by head, each with its queries, keys and values
        query, key, value = (torch.cat([head.chunk(3, dim=-1)[part] for head in heads], dim=-1) for part in range(3))
        states = states + layer.self_attn.dense(attention(query, key, value, heads=2))
        inner = layer.mlp.fc1(norm(layer.post_attention_layernorm, states, eps=1e-4))
        states = states + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))  # quick_gelu
    assert_same(tower(pixels).last_hidden_state, norm(tower.post_layernorm, states, eps=1e-4))


def test_the_pooled_class_token_is_normed_twice(owl: MplugOwlForConditionalGeneration) -> None:
    tower = owl.model.vision_tower
    seen = tower(torch.randn(1, 3, 28, 28))
    assert torch.equal(seen.pooler_output, tower.post_layernorm(seen.last_hidden_state[:, 0]))


def test_a_picture_of_another_size_is_an_error_with_both_sizes(owl: MplugOwlForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="42 x 42 pixels gives 10 tokens, but the vision encoder has 5 positions"):
        owl.model.vision_tower(torch.randn(1, 3, 42, 42))


def test_attention_weights_and_hidden_states_can_be_seen() -> None:
    owl = tiny_owl(tiny_config())
    owl.set_attn_implementation("eager")
    seen = owl.model.vision_tower(torch.randn(1, 3, 28, 28), output_attentions=True, output_hidden_states=True)
    assert [weights.shape for weights in seen.attentions] == [(1, 2, 5, 5)] * 2
    assert len(seen.hidden_states) == 3
    torch.testing.assert_close(seen.attentions[0].sum(-1), torch.ones(1, 2, 5))


def test_a_stem_halves_before_the_patches() -> None:
    config = MplugOwlVisionConfig(**OWN | {"stem_channels": [6, 8], "patch_size": 28, "image_size": 56})
    tower = MplugOwlVisionModel(config)
    assert [tuple(layer[0].weight.shape) for layer in tower.embeddings.stem] == [(6, 3, 3, 3), (8, 6, 3, 3)]
    assert tower.embeddings.patch_embed.kernel_size == (7, 7)
    assert tower(torch.randn(1, 3, 56, 56)).last_hidden_state.shape == (1, 1 + 4, 16)


def test_a_stem_looks_beyond_its_patch() -> None:
    """What makes letters easier: a pixel beside a patch counts for it too."""
    tower = MplugOwlVisionModel(MplugOwlVisionConfig(**OWN | {"stem_channels": [8], "num_hidden_layers": 0}))
    pixels = torch.randn(1, 3, 28, 28, requires_grad=True)
    tower(pixels).last_hidden_state[0, 4].square().mul(torch.arange(16.0)).sum().backward()  # the patch at the bottom right
    assert pixels.grad is not None
    assert pixels.grad[0, :, 14:, 14:].abs().sum() > 0
    assert pixels.grad[0, :, 13, 14:].abs().sum() > 0
    assert pixels.grad[0, :, :13].abs().sum() == 0


def test_a_stem_comes_back_from_a_file(tmp_path: Path) -> None:
    tower = MplugOwlVisionModel(MplugOwlVisionConfig(**OWN | {"stem_channels": (8,)})).eval()
    tower.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 28, 28)
    again = MplugOwlVisionModel.from_pretrained(tmp_path)
    assert torch.equal(again(pixels).last_hidden_state, tower(pixels).last_hidden_state)


def test_a_stem_that_does_not_come_out_even_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 convolutions halve a patch 2 times; patch_size 14 is not divisible by 4"):
        MplugOwlVisionConfig(stem_channels=[8, 8])
