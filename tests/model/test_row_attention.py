"""Attention in blocks of queries: attention written out is the oracle."""

import pytest
import torch

from mplug_owl.model import row_attention as rows
from mplug_owl.model.attention import eager_attention
from tests.tiny import tiny_config, tiny_owl


@pytest.mark.parametrize("block", [3, 5, 64])
def test_values_and_gradients_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Causal, a row with padding, four heads of queries to two of keys; worst measured 5e-7."""
    monkeypatch.setattr(rows, "BLOCK", block)
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.is_causal = True
    seen = torch.ones(11, 11).tril().bool().repeat(2, 1, 1, 1)
    seen[1, :, :, 8:] = False
    added = torch.zeros(2, 1, 11, 11).masked_fill(~seen, torch.finfo(torch.float32).min)
    ours = [torch.randn(2, heads, 11, 6).requires_grad_() for heads in (4, 2, 2)]
    theirs = [states.detach().clone().requires_grad_() for states in ours]
    gradient = torch.randn(2, 11, 4, 6)
    query, key, value = theirs[0], *(states.repeat_interleave(2, 1) for states in theirs[1:])
    expected, _ = eager_attention(module, query, key, value, added, 0.3)
    found, _ = rows.row_attention(module, *ours, seen, 0.3)
    expected.backward(gradient)
    found.backward(gradient)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=3e-6, rtol=0)


@torch.no_grad()
def test_a_language_model_says_the_same_and_generates_the_same() -> None:
    """A mask for whole rows, and one for a query after many keys; worst measured 5e-7."""
    owl = tiny_owl(tiny_config())
    owl.model.language_model.set_attn_implementation("eager")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 3, 3, 3]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    expected = owl(input_ids=ids, attention_mask=mask).logits
    words = owl.generate(input_ids=ids[:1], attention_mask=mask[:1], max_new_tokens=5, do_sample=False)
    rows.use_row_attention(owl.model.language_model)
    assert owl.model.language_model.config._attn_implementation == rows.ROWS
    found = owl(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=3e-6, rtol=0)
    assert torch.equal(owl.generate(input_ids=ids[:1], attention_mask=mask[:1], max_new_tokens=5, do_sample=False), words)


def test_only_eager_attention_is_replaced_and_dropout_is_refused() -> None:
    owl = tiny_owl(tiny_config())
    before = owl.model.language_model.config._attn_implementation
    rows.use_row_attention(owl.model.language_model)
    assert owl.model.language_model.config._attn_implementation == before != "eager"
    states = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="no dropout"):
        rows.row_attention(torch.nn.Module(), states, states, states, None, 1.0, dropout=0.1)
