"""Attention: by hand, by the implementation that a config names, and within the conversations of a packed row."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mplug_owl.model import attention
from mplug_owl.model.attention import PACKED, attend, eager_attention, packed_attention, packed_sequences
from tests.model import equations
from tests.model.equations import assert_same, quiet
from tests.tiny import tiny_config, tiny_owl

HEADS, WIDTH = 2, 12


def by_head(states_BTD: Tensor) -> Tensor:
    return states_BTD.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def states() -> tuple[Tensor, Tensor, Tensor]:
    """Queries [2, 4, 12], keys and values [2, 5, 12]."""
    return 500 * quiet(2, 4, WIDTH), 500 * quiet(2, 5, WIDTH, seed=1), 500 * quiet(2, 5, WIDTH, seed=2)


def config(implementation: str) -> Any:
    return SimpleNamespace(_attn_implementation=implementation)


@pytest.mark.parametrize(("implementation", "atol"), [("sdpa", 1e-12), ("eager", 1e-6)])  # by hand softmax is in float32
def test_every_query_attends_to_every_key(implementation: str, atol: float) -> None:
    mixed, weights = attend(nn.Identity().eval(), config(implementation), *map(by_head, states()), dropout=0.5)
    torch.testing.assert_close(mixed, equations.attention(*states(), HEADS), atol=atol, rtol=0)
    if implementation == "eager":
        assert weights.shape == (2, HEADS, 4, 5)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 4, dtype=torch.float64))


def test_dropout_is_for_training() -> None:
    module, whole = nn.Identity().train(), equations.attention(*states(), HEADS)
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        forgetful, _ = attend(module, config(implementation), *map(by_head, states()), dropout=0.5)
        assert not torch.allclose(forgetful, whole, atol=1e-3)
        kept, _ = attend(module, config(implementation), *map(by_head, states()), dropout=0.0)
        torch.testing.assert_close(kept, whole, atol=1e-6, rtol=0)


def test_a_mask_is_added_to_the_scores() -> None:
    hidden = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    hidden[..., 3:] = float("-inf")
    queries, keys, values = states()
    masked, _ = eager_attention(
        nn.Identity(), by_head(queries), by_head(keys), by_head(values), hidden, (WIDTH / HEADS) ** -0.5
    )
    expected = equations.attention(queries, keys[:, :3], values[:, :3], HEADS)
    torch.testing.assert_close(masked.flatten(2), expected, atol=1e-6, rtol=0)


def test_where_the_conversations_of_a_packed_row_begin() -> None:
    language_model: Any = SimpleNamespace(config=config(PACKED))
    found = packed_sequences(language_model, torch.tensor([[0, 1, 2, 0, 0, 1]]))
    assert found["packed_bounds"].tolist() == [0, 3, 4, 6]
    assert found["packed_bounds"].dtype == torch.int32
    assert found["packed_longest"] == 3
    language_model.config = config("sdpa")
    assert packed_sequences(language_model, torch.tensor([[0, 1, 0]])) == {}


def test_a_language_model_of_sdpa_takes_the_kernel_and_another_keeps_its_own() -> None:
    for implementation, expected in (("sdpa", PACKED), ("eager", "eager")):
        language_model = tiny_owl(tiny_config()).model.language_model
        language_model.set_attn_implementation(implementation)
        attention.use_packed_attention(language_model)
        assert language_model.config._attn_implementation == expected


@torch.no_grad()
def test_what_is_padded_is_masked_as_before() -> None:
    language_model = tiny_owl(tiny_config()).model.language_model
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    before = language_model(input_ids=ids, attention_mask=mask).last_hidden_state
    attention.use_packed_attention(language_model)
    after = language_model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(after[mask.bool()], before[mask.bool()])
    unmasked = language_model(input_ids=ids).last_hidden_state
    assert not torch.allclose(unmasked[mask.bool()], before[mask.bool()], atol=1e-3)


def kernel(queries, keys, values, bounds, same_bounds, longest, same_longest, *, scale, window_size, num_splits=None):
    """What PyTorch's kernel computes, conversation by conversation; it has no way back on a CPU."""
    assert bounds is same_bounds
    assert longest == same_longest == int(bounds.diff().max())
    assert (window_size[1], num_splits) == (0, 1)
    mixed = []
    for first, last in itertools.pairwise(bounds.tolist()):
        back = torch.arange(last - first)[:, None] - torch.arange(last - first)
        seen = (back >= 0) & ((back <= window_size[0]) | (window_size[0] < 0))
        parts = (part[first:last].transpose(0, 1) for part in (queries, keys, values))
        mixed.append(nn.functional.scaled_dot_product_attention(*parts, seen, scale=scale).transpose(0, 1))
    return torch.cat(mixed)


@pytest.mark.parametrize("window", [None, 2])
def test_packed_attention_is_causal_and_within_its_conversation(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "KERNEL_DTYPES", (torch.float64,))
    queries = 500 * quiet(1, 4, 6, 8)
    keys, values = (500 * quiet(1, 2, 6, 8, seed=seed) for seed in (1, 2))  # one head of them to two of queries
    bounds = torch.tensor([0, 4, 6], dtype=torch.int32)
    mixed, _ = packed_attention(
        nn.Identity(), queries, keys, values, None, scaling=0.3, packed_bounds=bounds, packed_longest=4, sliding_window=window
    )
    for head in range(4):
        for position in range(6):
            first = max(0 if position < 4 else 4, 0 if window is None else position - window + 1)
            scores = queries[0, head, position] @ keys[0, head // 2, first : position + 1].T * 0.3
            assert_same(mixed[0, position, head], scores.softmax(-1) @ values[0, head // 2, first : position + 1])


@pytest.mark.parametrize("reason", ["not packed", "dropout", "rows", "fp32"])
def test_what_the_kernel_cannot_do_goes_to_sdpa(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.varlen, "varlen_attn", None)
    monkeypatch.setattr(attention, "KERNEL_DTYPES", () if reason == "fp32" else (torch.float64,))
    module = nn.Identity().eval()
    module.is_causal = True
    queries, keys, values = (by_head(quiet(2 if reason == "rows" else 1, 6, WIDTH, seed=seed)) for seed in range(3))
    bounds = None if reason == "not packed" else torch.tensor([0, 4, 6], dtype=torch.int32)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    dropout = 1e-12 if reason == "dropout" else 0.0
    mixed, _ = packed_attention(module, queries, keys, values, mask, scaling=0.3, dropout=dropout, packed_bounds=bounds)
    expected = nn.functional.scaled_dot_product_attention(queries, keys, values, mask, scale=0.3)
    torch.testing.assert_close(mixed, expected.transpose(1, 2), atol=1e-9, rtol=0)
