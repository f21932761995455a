"""What is computed otherwise while a run trains, and that all of it ends with the run."""

import pytest
import torch
from torch import nn

from mplug_owl.model.attention_cpu import CPU
from mplug_owl.train.half import HalfWeights
from mplug_owl.train.quick import quick_passes
from tests.tiny import tiny_config, tiny_owl


def forwards(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_every_layer_is_its_own_again(attention: str | None) -> None:
    """The same bits after it, and the same to rounding within it; worst measured 7e-7."""
    owl = tiny_owl(tiny_config())
    if attention is not None:
        for module in (owl.model.vision_tower, owl.model.language_model):
            module.set_attn_implementation(attention)
        owl.config._attn_implementation = attention
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    before, kept = owl(input_ids=ids).logits, forwards(owl)
    with quick_passes(owl, owl, attention):
        assert (owl.model.language_model.config._attn_implementation == CPU) == (attention != "sdpa")
        assert forwards(owl) > kept
        torch.testing.assert_close(owl(input_ids=ids).logits, before, atol=3e-6, rtol=0)
    assert forwards(owl) == kept
    assert torch.equal(owl(input_ids=ids).logits, before)


def test_frozen_weights_in_exchanged_layers_are_in_bf16_all_the_same() -> None:
    owl = tiny_owl(tiny_config()).requires_grad_(False)
    projection = owl.model.language_model.layers[0].self_attn.q_proj.weight
    with quick_passes(owl, owl) as quick, HalfWeights(owl, known=quick):
        assert "forward" in vars(owl.model.language_model.layers[0].self_attn)
        assert projection.dtype == torch.bfloat16
    assert projection.dtype == torch.float32


def test_weights_in_shares_keep_their_layers() -> None:
    owl = tiny_owl(tiny_config())
    with quick_passes(owl, owl, sharded=True):
        assert forwards(owl) == 0
        assert owl.config._attn_implementation == CPU
