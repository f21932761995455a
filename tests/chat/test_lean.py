"""What is left out where nobody learns: the same numbers, the same cache, and gradients as before."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.cache_utils import DynamicCache
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.lfm2.modeling_lfm2 import Lfm2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from mplug_owl.chat.lean import _is_plain_norm, last_position_asked, prepare
from mplug_owl.model.config import MplugOwlVisionConfig
from mplug_owl.model.vision import VisionEmbeddings
from tests.tiny import LANGUAGES, shaken, tiny_config, tiny_owl


def prompt(language_model: Any, inputs_BTE: Tensor, mask_BT: Tensor) -> tuple[Tensor, DynamicCache]:
    """The last layer's states of a prompt, and what was computed of it."""
    past = DynamicCache(config=language_model.config)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    out = language_model(
        inputs_embeds=inputs_BTE, attention_mask=mask_BT, position_ids=positions_BT, past_key_values=past, use_cache=True
    )
    return out.last_hidden_state, past


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("padding", [0, 3])
@torch.no_grad()
def test_the_last_position_is_what_it_was(language: str, padding: int) -> None:
    """And so are keys and values of all positions, from which the answer goes on."""
    model = tiny_owl(tiny_config(language=language)).eval()
    shaken(model, 0.3)
    inputs_BTE, mask_BT = torch.randn(2, 11, 24), torch.ones(2, 11, dtype=torch.long)
    mask_BT[0, :padding] = 0
    language_model = model.model.language_model
    expected, before = prompt(language_model, inputs_BTE, mask_BT)
    prepare(model, language_model)
    with last_position_asked():
        found, after = prompt(language_model, inputs_BTE, mask_BT)
    torch.testing.assert_close(found[:, -1], expected[:, -1], rtol=0, atol=2e-5)
    assert found.shape[1] == (1 if language in ("llama", "qwen3", "lfm2", "phi", "phi3", "gemma3") else 11)
    for one, other in zip(before.layers, after.layers, strict=True):
        if getattr(one, "keys", None) is not None:
            torch.testing.assert_close(other.keys[:, :, padding:], one.keys[:, :, padding:], rtol=0, atol=2e-5)
            torch.testing.assert_close(other.values[:, :, padding:], one.values[:, :, padding:], rtol=0, atol=2e-5)
    assert prompt(language_model, inputs_BTE, mask_BT)[0].shape[1] == 11  # whoever does not ask gets all


@pytest.mark.parametrize("shape", [(1, 1, 24), (3, 7, 24), (2, 9, 4, 24)])
@torch.no_grad()
def test_a_norm_in_bf16_has_the_same_bits(shape: tuple[int, ...]) -> None:
    norm = Lfm2RMSNorm(24).bfloat16()
    norm.weight.uniform_(0.5, 1.5)
    states = torch.randn(shape).bfloat16()
    expected, given = norm(states), states.clone()
    prepare(norm, norm)  # type: ignore[arg-type]  # a model of one norm
    assert "forward" in vars(norm)
    assert (norm(states) != expected).sum() <= 2  # a mean summed in another order, where it is just between two
    torch.testing.assert_close(norm(states), expected)
    assert torch.equal(states, given)


@torch.no_grad()
def test_a_norm_in_fp32_leaves_what_it_is_given() -> None:
    norm, states = Lfm2RMSNorm(24), torch.randn(2, 5, 24)
    norm.weight.uniform_(0.5, 1.5)
    expected, given = norm(states), states.clone()
    prepare(norm, norm)  # type: ignore[arg-type]
    torch.testing.assert_close(norm(states), expected)
    assert torch.equal(states, given)
    assert norm(states.double()).dtype == torch.float64  # of another dtype than its weight: transformers' own


def test_only_norms_that_are_llamas_are_replaced() -> None:
    assert _is_plain_norm(Lfm2RMSNorm)
    assert _is_plain_norm(Qwen3RMSNorm)
    assert not _is_plain_norm(Gemma3RMSNorm)  # its weight is added to 1
    assert not _is_plain_norm(nn.LayerNorm)


@torch.no_grad()
def test_a_linear_in_bf16_has_the_same_numbers() -> None:
    for rows in (1, 40, 300):
        linear, states = nn.Linear(160, 480).bfloat16(), torch.randn(2, rows, 160).bfloat16()
        expected = linear(states)
        prepare(linear, linear)  # type: ignore[arg-type]
        assert "forward" in vars(linear)
        torch.testing.assert_close(linear(states), expected)
        # Another dtype, and weights that are computed, go where they went.
        torch.testing.assert_close(linear.float()(states.float()), linear(states.float()))
        parametrize.register_parametrization(linear, "weight", nn.Identity())
        assert linear(states.float()).dtype == torch.float32


def test_gradients_copies_and_files_are_as_before() -> None:
    model, other = (tiny_owl(tiny_config(language="lfm2")).eval() for _ in range(2))
    other.load_state_dict(model.state_dict())
    prepare(model, model.model.language_model)
    prepare(model, model.model.language_model)  # once is enough
    ids = torch.tensor([[1, 7, 8, 9]])
    losses = [owl(input_ids=ids, labels=ids).loss for owl in (model, other, copy.deepcopy(model))]
    assert losses[0] == losses[1] == losses[2]
    losses[0].backward()
    losses[1].backward()
    ours, theirs = ({name: p.grad for name, p in owl.named_parameters() if p.grad is not None} for owl in (model, other))
    assert ours.keys() == theirs.keys()
    assert ours.keys() == {name for name, _ in model.named_parameters() if name.startswith(("model.language_model", "lm_head"))}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        next(copied.parameters()).add_(1.0)
    assert not torch.equal(next(copied.parameters()), next(model.parameters()))
    linear = nn.Linear(4, 4)
    prepare(linear, linear)  # type: ignore[arg-type]
    assert torch.equal(pickle.loads(pickle.dumps(linear)).weight, linear.weight)


@torch.no_grad()
def test_a_stem_in_bf16_has_the_same_numbers() -> None:
    """To the rounding between a convolution and its GELU, which is left out. In fp32 nothing changes."""
    torch.manual_seed(0)
    config = MplugOwlVisionConfig(hidden_size=16, image_size=64, patch_size=8, stem_channels=(8, 12))
    stem, pixels = VisionEmbeddings(config), torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    for weight in stem.parameters():
        weight.normal_(std=0.3)
    plain, quick = (copy.deepcopy(stem).bfloat16() for _ in range(2))
    prepare(quick, quick)  # type: ignore[arg-type]
    assert "forward" in vars(quick.stem[0])
    exact = copy.deepcopy(plain).float().stem[0](pixels.bfloat16().float())
    expected, found = (embeddings.stem[0](pixels.bfloat16()).float() for embeddings in (plain, quick))
    assert (found - exact).norm() < 1.05 * (expected - exact).norm()
    expected = stem(pixels)
    prepare(stem, stem)  # type: ignore[arg-type]
    assert torch.equal(stem(pixels), expected)
