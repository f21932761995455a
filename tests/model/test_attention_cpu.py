"""A CPU's attention in training: the mix and the gradients of sdpa, in bf16 to its rounding; packed rows apart."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mplug_owl.model import attention_cpu
from mplug_owl.model.attention import packed_sequences
from mplug_owl.model.attention_cpu import CPU, cpu_attention, use_cpu_attention
from tests.tiny import tiny_config, tiny_owl
from tests.train.test_packed import LENGTHS, gradients, samples


class Layer(nn.Module):
    """What a language model's layer tells its attention."""

    is_causal = True
    num_key_value_groups = 2


def states(dtype: torch.dtype, keys: int = 2, length: int = 11) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, heads, length, 8).to(dtype).requires_grad_() for heads in (4, keys, keys)]


def both(mask: Tensor | None, given: list[Tensor], **kwargs: Any) -> list[tuple[Tensor, ...]]:
    towards, found = torch.randn(2, given[0].shape[2], 4, 8), []
    for way in (cpu_attention, sdpa_attention_forward):
        mixed, _ = way(Layer(), *given, mask, scaling=0.3, **kwargs)
        found.append((mixed, *torch.autograd.grad(mixed, given, towards.to(mixed.dtype))))
    return found


@pytest.mark.parametrize("kind", ["causal", "every key", "padded", "added"])
def test_written_out_it_is_sdpa(kind: str) -> None:
    mask, kwargs = None, {"is_causal": kind != "every key"}
    if kind in ("padded", "added"):
        mask = torch.ones(2, 1, 11, 11, dtype=torch.bool).tril()
        mask[1, ..., 8:] = False
        if kind == "added":
            mask = torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, torch.finfo(torch.bfloat16).min)
    ours, theirs = both(mask, states(torch.bfloat16), **kwargs)
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0.02)  # bf16; worst measured 0.016


def test_in_fp32_and_without_gradients_it_is_sdpa_to_the_bit() -> None:
    for one, other in zip(*both(None, states(torch.float32)), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        given = states(torch.bfloat16)
        mixed = [way(Layer(), *given, None, scaling=0.3)[0] for way in (cpu_attention, sdpa_attention_forward)]
    assert torch.equal(*mixed)


def test_under_autocast_it_is_computed_in_bf16() -> None:
    given = states(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = cpu_attention(Layer(), *given, None, scaling=0.3)
    assert mixed.dtype == torch.bfloat16
    mixed.sum().backward()
    assert given[0].grad is not None
    assert given[0].grad.dtype == torch.float32


def test_dropout_forgets_some_weights() -> None:
    given = states(torch.bfloat16)
    torch.manual_seed(0)
    forgetful, _ = cpu_attention(Layer(), *given, None, dropout=0.5)
    assert not torch.allclose(forgetful, cpu_attention(Layer(), *given, None)[0], atol=0.1)


@pytest.mark.parametrize("language", ["llama", "gemma3"])  # one that says where conversations end, one of sliding windows
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_rows_teach_what_they_taught(language: str, precision: str) -> None:
    owl = tiny_owl(tiny_config(language=language)).eval()
    rows = samples(owl)
    ids = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    labels = ids.masked_fill(ids == owl.config.image_token_id, -100)
    pixels = torch.randn(len(LENGTHS), 3, 28, 28)
    inputs = {"input_ids": ids, "position_ids": positions, "labels": labels, "pixel_values": pixels}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        before = gradients(owl, **inputs)
        use_cpu_attention(owl)
        after = gradients(owl, **inputs)
    if language == "llama":
        assert packed_sequences(owl.model.language_model, positions)["packed_lengths"] == tuple(map(len, rows))
    assert owl.config._attn_implementation == CPU
    assert after[0] == pytest.approx(before[0], rel=1e-6 if precision == "fp32" else 5e-3)
    for name, gradient in before[1].items():
        apart = float((after[1][name] - gradient).norm())

        # bf16 rounds either way; the gradient of a key's bias is nothing but rounding
        share, floor = (1e-5, 1e-6) if precision == "fp32" else (0.15, 1e-4)
        assert apart <= share * float(gradient.norm()) + floor, name


SIZES = [
    (block, length) for block in (3, 8, 64) for length in (7, 20, 45)
]  # rows of fewer and more scores than are read at once


# With dropout the whole is one block: others draw other numbers.
@pytest.mark.parametrize(
    ("block", "length", "dropout"),
    [*((*size, 0.0) for size in SIZES), *((*size, 0.5) for size in SIZES if size[0] >= size[1])],
)
def test_blocks_of_any_size_give_the_same(block: int, length: int, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention written out in fp32 is the oracle, with the same weights forgotten where the whole is one block."""
    monkeypatch.setattr(attention_cpu, "BLOCK", block)
    given = states(torch.bfloat16, length=length)
    towards = torch.randn(2, length, 4, 8)
    torch.manual_seed(1)
    mixed, _ = cpu_attention(Layer(), *given, None, scaling=0.3, dropout=dropout)
    found = (mixed, *torch.autograd.grad(mixed, given, towards.to(torch.bfloat16)))
    wide = [one.detach().float().requires_grad_() for one in given]
    key, value = (one.repeat_interleave(2, 1) for one in wide[1:])
    scores = (wide[0] @ key.mT * 0.3).masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
    torch.manual_seed(1)
    room = -length % attention_cpu.AT_ONCE if length % attention_cpu.AT_ONCE > attention_cpu.FEW else 0
    drawn = torch.empty(2, 4, length, length + room, dtype=torch.bfloat16).bernoulli_(1 - dropout)[..., :length]
    expected = ((scores.softmax(-1) * drawn / (1 - dropout)) @ value).transpose(1, 2)
    for one, other in zip(found, (expected, *torch.autograd.grad(expected, wide, towards)), strict=True):
        assert float((one - other).detach().norm()) <= 0.02 * float(other.detach().norm())  # bf16; worst measured 0.008


def test_a_row_of_padding_that_sees_nothing_is_made_of_numbers() -> None:
    given = states(torch.bfloat16)
    seen = torch.ones(2, 1, 11, 11, dtype=torch.bool).tril()
    seen[1, :, 2] = False
    for mask in (seen, torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)):
        mixed, _ = cpu_attention(Layer(), *given, mask, scaling=0.3)
        assert bool(mixed.isfinite().all())


def test_who_chose_another_keeps_it() -> None:
    """Eager is the same where it is known to be: of the owl's own parts, and of LLaMA's layers, but not of Gemma's."""
    owl = tiny_owl(tiny_config(language="gemma3"))
    owl.model.language_model.set_attn_implementation("eager")
    owl.model.vision_tower.set_attn_implementation("eager")
    before = use_cpu_attention(owl)
    assert owl.model.language_model.config._attn_implementation == "eager"
    assert owl.model.vision_tower.config._attn_implementation == CPU
    assert (owl.model.vision_tower.config, "eager") in before
