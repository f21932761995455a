"""f_V, the vision encoder."""

import pytest
import torch

from mplug_owl import MplugOwlForConditionalGeneration
from tests.tiny import tiny_config, tiny_owl


def test_every_token_is_handed_on_the_class_token_first(owl: MplugOwlForConditionalGeneration) -> None:
    seen = owl.model.vision_tower(torch.randn(2, 3, 28, 28))
    assert seen.last_hidden_state.shape == (2, 1 + 4, 16)


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
