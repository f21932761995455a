"""quick_gelu is transformers', forward and backward."""

import torch
from transformers.activations import ACT2FN

from mplug_owl.model.activation import QuickGELU


def test_it_is_quick_gelu_with_its_gradient() -> None:
    torch.manual_seed(0)
    states, towards = torch.randn(40, 50, dtype=torch.float64, requires_grad=True) * 4, torch.randn(40, 50, dtype=torch.float64)
    found = []
    for activation in (QuickGELU(), ACT2FN["quick_gelu"]):
        out = activation(states)
        found.append((out, *torch.autograd.grad(out, states, towards)))
    torch.testing.assert_close(found[0], found[1], atol=1e-14, rtol=1e-14)


def test_what_it_was_given_stays_as_it_was() -> None:
    states = torch.randn(5)
    before = states.clone()
    QuickGELU()(states)
    assert torch.equal(states, before)
