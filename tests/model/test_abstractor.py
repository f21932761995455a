"""f_K, the visual abstractor: what makes it this one, and what training asks of it."""

import pytest
import torch
from torch.nn.functional import silu

from mplug_owl import MplugOwlForConditionalGeneration, VisualAbstractor
from tests.model.equations import assert_same, attention, norm, quiet
from tests.tiny import tiny_config, tiny_owl


def test_fresh_queries_and_end_vectors_are_random() -> None:
    """The original's queries start as zeros: all alike, and so are their gradients, for ever."""
    torch.manual_seed(0)
    config = tiny_config(num_query_tokens=16)
    config.visual_abstractor_config.initializer_range = 0.05
    abstractor = MplugOwlForConditionalGeneration(config).model.abstractor
    assert torch.pdist(abstractor.query_tokens[0]).min() > 0.05
    assert abstractor.query_tokens.std().item() == pytest.approx(0.05, rel=0.2)
    assert abstractor.vit_eos.std().item() == pytest.approx(0.05, rel=0.5)


def test_another_width_than_the_vision_encoders_is_refused() -> None:
    config = tiny_config()
    config.visual_abstractor_config.hidden_size = 8
    with pytest.raises(ValueError, match=r"hidden_size 8 must equal the vision encoder's 16; the abstractor attends to"):
        VisualAbstractor(config)


def test_a_picture_takes_one_position_more_than_there_are_queries() -> None:
    config = tiny_config()
    abstractor = tiny_owl(config).model.abstractor
    assert isinstance(abstractor, VisualAbstractor)
    said = abstractor(torch.randn(2, 5, config.vision_config.hidden_size))
    assert abstractor.num_tokens == config.num_query_tokens + 1
    assert said.shape == (2, abstractor.num_tokens, config.text_config.hidden_size)
    assert torch.equal(said[:, -1], abstractor.vit_eos[0].expand(2, -1))


@torch.no_grad()
def test_a_layer_is_its_equation() -> None:
    """Queries attend to themselves and to the patches, both normed; the residual starts from the normed queries."""
    layer = tiny_owl(tiny_config()).model.abstractor.layers[1].double()
    queries, patches = quiet(2, 4, 16), quiet(2, 5, 16, seed=1)
    asking = norm(layer.norm1, queries)
    seen = torch.cat([asking, norm(layer.normk, patches)], dim=1)
    own = layer.attention
    mixed = attention(own.query(asking), own.key(seen), own.value(seen), heads=2)
    added = asking + own.out_proj(mixed)
    normed = norm(layer.norm2, added)
    gated = silu(layer.mlp.w1(normed)) * layer.mlp.w3(normed)
    assert_same(layer(queries, patches), added + layer.mlp.w2(norm(layer.mlp.ffn_ln, gated, eps=1e-6)))


@torch.no_grad()
def test_the_abstractor_is_its_layers_one_after_the_other() -> None:
    abstractor = tiny_owl(tiny_config()).model.abstractor.double()
    patches = quiet(2, 5, 16)
    first, second = abstractor.layers
    queries = second(first(abstractor.query_tokens.expand(2, 4, 16), patches), patches)
    assert_same(abstractor(patches)[:, :-1], abstractor.visual_fc(queries))


def test_the_released_norms_have_two_different_eps() -> None:
    config = tiny_config()
    config.visual_abstractor_config.layer_norm_eps = 1e-6
    layer = tiny_owl(config).model.abstractor.layers[0]
    assert {layer.norm1.eps, layer.norm2.eps, layer.normk.eps} == {1e-5}
    assert layer.mlp.ffn_ln.eps == 1e-6


def test_attention_dropout_works_in_training_alone() -> None:
    abstractor, patches = tiny_owl(tiny_config()).model.abstractor, torch.randn(1, 5, 16)
    assert torch.equal(abstractor(patches), abstractor(patches))
    abstractor.train()
    assert not torch.equal(abstractor(patches), abstractor(patches))
