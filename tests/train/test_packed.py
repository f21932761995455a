"""Packed rows teach what padded ones do: the same loss and the same gradients, for every kind of language model."""

import functools
import itertools

import pytest
import torch

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.data.packing import positions
from mplug_owl.model import attention
from mplug_owl.train.trainable import check_packing
from tests.tiny import LANGUAGES, tiny_config, tiny_owl

LENGTHS = (9, 17, 5, 12)


def one_by_one(queries, keys, values, bounds, same_bounds, longest, same_longest, *, scale, window_size, num_splits=None):
    """What the kernel computes, sequence by sequence, in PyTorch's words."""
    assert bounds is same_bounds
    assert longest == same_longest == int(bounds.diff().max())
    assert (bounds[0], bounds[-1], window_size[1], num_splits) == (0, len(queries), 0, 1)
    mixed = []
    for first, last in itertools.pairwise(bounds.tolist()):
        back = torch.arange(last - first)[:, None] - torch.arange(last - first)
        seen = (back >= 0) & ((back <= window_size[0]) | (window_size[0] < 0))
        states = (part[first:last].transpose(0, 1) for part in (queries, keys, values))
        mixed.append(torch.nn.functional.scaled_dot_product_attention(*states, seen, scale=scale).transpose(0, 1))
    return torch.cat(mixed)


def samples(owl: MplugOwlForConditionalGeneration) -> list[torch.Tensor]:
    """Rows of ids, each with one picture behind its first token."""
    torch.manual_seed(0)
    picture = torch.full((owl.num_image_tokens,), owl.config.image_token_id)
    rows = [torch.randint(5, 90, (length,)) for length in LENGTHS]
    return [torch.cat([row[:1], picture, row[1:]]) for row in rows]


def gradients(owl: MplugOwlForConditionalGeneration, **inputs: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    owl.zero_grad()
    loss = owl(**inputs, supervised_only=True, use_cache=False).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in owl.named_parameters() if p.grad is not None}


# These make their own mask or convolve over neighbours, and take no notice of restarting positions.
TOGETHER = ("bloom", "opt", "lfm2")


@pytest.mark.parametrize("language", TOGETHER)
def test_a_language_model_that_cannot_be_packed_is_refused(language: str) -> None:
    with pytest.raises(ValueError, match=f"encoding.pack: {language} lets packed conversations see one another"):
        check_packing(tiny_owl(tiny_config(language=language)))


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name not in TOGETHER])
def test_packed_is_padded(language: str) -> None:
    owl = tiny_owl(tiny_config(language=language)).eval()
    check_packing(owl)
    assert_packed_is_padded(owl)


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name not in TOGETHER])
def test_so_it_is_with_the_kernel_for_packed_rows(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself has no way back on a CPU, so what it computes stands in its place; all around it is as on CUDA."""
    seen = []

    @functools.wraps(one_by_one)
    def watched(*arguments, **options):
        seen.append(arguments[3].tolist())
        return one_by_one(*arguments, **options)

    monkeypatch.setattr(attention.varlen, "varlen_attn", watched)
    monkeypatch.setattr(attention, "KERNEL_DTYPES", (torch.float32,))
    owl = tiny_owl(tiny_config(language=language)).eval()
    attention.use_packed_attention(owl.model.language_model)
    check_packing(owl)
    seen.clear()
    assert_packed_is_padded(owl)
    places = owl.num_image_tokens
    bounds = [0, *itertools.accumulate(length + places for length in LENGTHS)]
    assert seen == [bounds] * owl.config.text_config.num_hidden_layers  # packed rows, and no others


def assert_packed_is_padded(owl: MplugOwlForConditionalGeneration) -> None:
    rows = samples(owl)
    side = owl.config.vision_config.image_size
    pixels = torch.randn(len(rows), 3, side, side)
    learned = [row.masked_fill(row == owl.config.image_token_id, -100).index_fill(0, torch.tensor([0]), -100) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    padded = gradients(
        owl,
        input_ids=pad(rows, True, 0),
        attention_mask=pad([torch.ones_like(row) for row in rows], True, 0),
        labels=pad(learned, True, -100),
        pixel_values=pixels,
    )
    packed = gradients(
        owl,
        input_ids=torch.cat(rows)[None],
        labels=torch.cat(learned)[None],
        position_ids=torch.tensor([positions([len(row) for row in rows])]),
        pixel_values=pixels,
    )
    assert packed[0] == pytest.approx(padded[0], abs=1e-6)
    assert packed[1].keys() == padded[1].keys()
    for name, gradient in padded[1].items():
        torch.testing.assert_close(
            packed[1][name], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
