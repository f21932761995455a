"""LFM2's convolutions with channels last: transformers' own are the oracle."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mplug_owl.model.short_convolution import use_quick_convolutions

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 40}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_hidden_states_and_gradients(precision: str, bias: bool) -> None:
    """Of padded rows too, and of rows shorter than a kernel. Worst measured: the same bits forward, gradients 6e-7 apart."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "lfm2", **SIZES, num_key_value_heads=3, layer_types=["conv", "full_attention"], conv_L_cache=6, conv_bias=bias
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for length in (3, 11):
        ids, mask = torch.arange(2 * length).reshape(2, length), torch.ones(2, length, dtype=torch.long)
        mask[1, 2:] = 0
        found = []
        for changed in (False, True):
            layers = use_quick_convolutions(model) if changed else []
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(ids, attention_mask=mask, use_cache=False).logits
            logits.float().square().sum().backward()
            found.append([logits.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)])
            for layer in layers:
                del vars(layer)["forward"]
        assert len(layers) == 1
        for before, after in zip(*found, strict=True):
            scale = float(before.abs().max())
            torch.testing.assert_close(after, before, atol=(1e-5 if precision == "fp32" else 0.02) * scale, rtol=0)


@torch.no_grad()
def test_with_a_cache_it_generates_what_it_did() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("lfm2", **SIZES, num_key_value_heads=3, layer_types=["conv", "full_attention"])
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.tensor([[5, 6, 7]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    before = model.generate(ids, **options)
    use_quick_convolutions(model)
    assert torch.equal(model.generate(ids, **options), before)
