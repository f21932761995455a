"""f_K, the visual abstractor: what makes it this one, and what training asks of it."""

import pytest
import torch

from mplug_owl import MplugOwlForConditionalGeneration, VisualAbstractor
from tests.tiny import tiny_config, tiny_owl


@pytest.mark.parametrize("connector", ["abstractor", "qformer", "resampler"])
def test_fresh_queries_are_random_and_all_different(connector: str) -> None:
    """The original's start as zeros: all alike, and so are their gradients, for ever."""
    torch.manual_seed(0)
    abstractor = MplugOwlForConditionalGeneration(tiny_config(connector=connector, num_query_tokens=16)).model.abstractor
    queries = abstractor.query_tokens[0].detach()
    assert torch.pdist(queries).min() > 0.02
    assert queries.std().item() == pytest.approx(0.02, rel=0.2)  # initializer_range


def test_a_picture_takes_one_position_more_than_there_are_queries() -> None:
    config = tiny_config()
    abstractor = tiny_owl(config).model.abstractor
    assert isinstance(abstractor, VisualAbstractor)
    said = abstractor(torch.randn(2, 5, config.vision_config.hidden_size))
    assert said.shape == (2, config.num_query_tokens + 1, config.text_config.hidden_size)
    assert torch.equal(said[:, -1], abstractor.vit_eos[0].expand(2, -1))


def test_the_residual_starts_from_the_normed_queries() -> None:
    """With attention and MLP silent, a layer is its first norm and not the identity."""
    layer = tiny_owl(tiny_config()).model.abstractor.layers[0]
    for last in (layer.attention.out_proj, layer.mlp.w2):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    queries = torch.randn(1, 4, 16) * 3
    assert torch.equal(layer(queries, torch.randn(1, 5, 16)), layer.norm1(queries))


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
