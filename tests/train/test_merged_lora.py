"""LoRA layers that add the adapter to the weight: peft's own way is the oracle."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mplug_owl.train.half import HalfWeights
from mplug_owl.train.merged_lora import merge_in_passes


def adapted(width: int = 12, rank: int = 4, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    learner = get_peft_model(
        nn.Sequential(nn.Linear(width, 2 * width), nn.Linear(2 * width, width, bias=False)),
        LoraConfig(r=rank, lora_alpha=8, target_modules=["0", "1"], **settings),
    )
    for name, parameter in learner.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()  # peft's starts as zeros, which say nothing
    return learner


def test_values_and_gradients_are_those_of_peft() -> None:
    """Worst measured 1.4e-5, of values up to 200."""
    theirs, ours = adapted(), adapted()
    assert len(merge_in_passes(ours)) == 2
    given = torch.randn(5, 12)
    expected, found = theirs(given), ours(given)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-2, rtol=1e-5)


def test_in_bf16_it_differs_from_peft_as_bf16_does() -> None:
    theirs, ours = adapted(), adapted()
    merge_in_passes(ours)
    given = torch.randn(64, 12)
    with torch.no_grad():
        exact = theirs(given)
        with torch.autocast("cpu", torch.bfloat16):
            by_peft, merged = (learner(given).float() - exact for learner in (theirs, ours))
    assert merged.norm() < 1.5 * by_peft.norm()


def test_wide_layers_dropout_and_variants_keep_pefts_way() -> None:
    assert merge_in_passes(adapted(width=96, rank=2)) == []
    assert merge_in_passes(adapted(lora_dropout=0.1)) == []
    assert merge_in_passes(adapted(use_dora=True)) == []


def test_it_still_becomes_plain_weights() -> None:
    learner = adapted()
    merge_in_passes(learner)
    given = torch.randn(3, 12)
    expected = learner(given)
    torch.testing.assert_close(learner.merge_and_unload()(given), expected, atol=1e-4, rtol=1e-5)


def test_a_merged_weight_is_not_rounded_before_the_adapter_is_added() -> None:
    learner = adapted()
    merge_in_passes(learner)
    bases = [module.weight for name, module in learner.named_modules() if name.endswith("base_layer")]
    with HalfWeights(learner):
        assert {weight.dtype for weight in bases} == {torch.float32}
