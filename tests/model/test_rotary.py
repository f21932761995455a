"""Rotary positions in fewer passes: transformers' own are the oracle."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from mplug_owl.model.rotary import rotate, use_quick_rotary

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 40}


def small(kind: str) -> nn.Module:
    torch.manual_seed(0)
    more = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    return AutoModel.from_config(
        AutoConfig.for_model(kind, **SIZES, num_key_value_heads=3, **more), attn_implementation="eager"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_transformers(dtype: torch.dtype) -> None:
    """Heads are given as projections leave them, a view; worst measured 2.4e-7 in fp32, 0 in bf16."""
    torch.manual_seed(0)
    angles = torch.rand(2, 5, 4) * 6
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    theirs, ours = (torch.randn(2, 5, 3, 8).to(dtype).transpose(1, 2).requires_grad_() for _ in range(2))
    ours = theirs.detach().clone().requires_grad_()
    expected, _ = apply_rotary_pos_emb(theirs, theirs, cos, sin)
    found = rotate(ours, cos.unsqueeze(1), sin.unsqueeze(1))
    towards = torch.randn_like(expected)
    expected.backward(towards)
    found.backward(towards)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-6 if dtype == torch.float32 else 0.02, rtol=0)


@pytest.mark.parametrize(("kind", "layers"), [("llama", 2), ("lfm2", 1), ("qwen2", 2)])
def test_layers_that_turn_as_llama_are_known_whatever_their_name(kind: str, layers: int) -> None:
    model, ids = small(kind), torch.arange(12).reshape(2, 6)
    expected = model(ids).last_hidden_state
    changed = use_quick_rotary(model)
    assert len(changed) == layers
    assert not use_quick_rotary(model)  # they are changed already
    found = model(ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)  # worst measured 4e-7
    for layer in changed:
        del vars(layer)["forward"]
    assert torch.equal(model(ids).last_hidden_state, expected)


@pytest.mark.parametrize("kind", ["cohere", "gpt2"])  # pairs of neighbours; no rotation at all
def test_other_layers_are_left(kind: str) -> None:
    assert use_quick_rotary(small(kind)) == []


def test_other_models_of_the_process_keep_their_function() -> None:
    from transformers.models.llama import modeling_llama

    use_quick_rotary(small("llama"))
    assert modeling_llama.apply_rotary_pos_emb is apply_rotary_pos_emb
