"""RMS norms in fewer passes: transformers' own are the oracle."""

import pytest
import torch
from transformers.models.lfm2.modeling_lfm2 import Lfm2RMSNorm

from mplug_owl.model.norms import rms_norm, use_quick_norms


@pytest.mark.parametrize(("kind", "atol"), [(torch.float32, 4e-6), (torch.bfloat16, 0.04)])  # worst measured 1.9e-6, 0.016
def test_values_and_gradients_are_those_of_transformers(kind: torch.dtype, atol: float) -> None:
    torch.manual_seed(0)
    theirs = Lfm2RMSNorm(24, eps=1e-3)
    theirs.weight.data.normal_()
    given = torch.randn(3, 7, 24).to(kind)
    by_them, by_us = (given.clone().requires_grad_() for _ in range(2))
    gradient = torch.randn(3, 7, 24)
    expected = theirs(by_them)
    (expected * gradient).sum().backward()
    expected_weight, theirs.weight.grad = theirs.weight.grad, None
    found = rms_norm(by_us, theirs.weight, 1e-3)
    (found * gradient).sum().backward()
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    torch.testing.assert_close(by_us.grad, by_them.grad, atol=atol, rtol=0)
    torch.testing.assert_close(theirs.weight.grad, expected_weight, atol=2 * atol, rtol=0)


def test_under_autocast_products_find_their_dtype_and_positions_theirs() -> None:
    holder = torch.nn.ModuleDict(
        {"operator_norm": Lfm2RMSNorm(8), "q_layernorm": Lfm2RMSNorm(8), "other": torch.nn.LayerNorm(8)}
    )
    plain = holder["other"].forward
    use_quick_norms(holder)
    states = torch.randn(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert holder["operator_norm"](states).dtype == torch.bfloat16
        assert holder["q_layernorm"](states).dtype == torch.float32
    assert holder["operator_norm"](states).dtype == torch.float32
    assert holder["other"].forward == plain
