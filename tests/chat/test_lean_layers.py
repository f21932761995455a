"""Layers written for answering against transformers' own: states, caches, steps, and what is left to transformers."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

import mplug_owl.chat.lean as lean
from mplug_owl.chat.lean import last_position_asked, prepare
from mplug_owl.chat.lean_layers import is_known
from tests.tiny import shaken, tiny_config, tiny_owl


def two(language: str, kind: torch.dtype = torch.float32, **sizes: int) -> tuple[Any, Any]:
    """A language model as it is, and a copy whose layers are ours."""
    config = tiny_config(language=language)
    for name, size in sizes.items():
        setattr(config.text_config, name, size)
    model = tiny_owl(config).eval()
    shaken(model, 0.3)
    theirs = model.model.language_model.to(kind)
    ours = copy.deepcopy(theirs)
    prepare(ours, ours)
    return theirs, ours


def talk(model: Any, inputs_BTE: Tensor, mask_BT: Tensor, lengths: tuple[int, ...]) -> tuple[list[Tensor], DynamicCache]:
    """States of a prompt that is read in parts, one after another, and what was kept."""
    past, states, first = DynamicCache(config=model.config), [], 0
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    for length in lengths:
        part, seen = slice(first, first + length), first + length
        given = {"attention_mask": mask_BT[:, :seen], "position_ids": positions_BT[:, part], "past_key_values": past}
        states.append(model(inputs_embeds=inputs_BTE[:, part], use_cache=True, **given).last_hidden_state)
        first = seen
    return states, past


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions our layers read at each of their calls."""
    read, counted = lean.read, list[int]()

    def counting(model: Any, inputs_BTE: Tensor, *args: Any) -> Tensor:
        counted.append(inputs_BTE.shape[1])
        return read(model, inputs_BTE, *args)

    monkeypatch.setattr(lean, "read", counting)
    return counted


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("language", ["llama", "lfm2"])
@torch.no_grad()
def test_states_and_what_is_kept_are_transformers(language: str, padding: int, calls: list[int]) -> None:
    """A prompt, three words, two more parts, the first of which is shorter than a convolution."""
    theirs, ours = two(language)
    inputs_BTE, mask_BT = torch.randn(3, 19, 24), torch.ones(3, 19, dtype=torch.long)
    mask_BT[1, :padding] = 0
    lengths = (9, 1, 1, 1, 2, 5)
    expected, before = talk(theirs, inputs_BTE, mask_BT, lengths)
    found, after = talk(ours, inputs_BTE, mask_BT, lengths)
    assert tuple(calls) == lengths
    for one, other in zip(found, expected, strict=True):
        read = slice(padding if one is found[0] else 0, None)
        torch.testing.assert_close(one[:, read], other[:, read], rtol=0, atol=2e-5)
    kept: list[tuple[Any, Any]] = list(zip(after.layers, before.layers, strict=True))
    for layer, known in kept:
        if getattr(known, "keys", None) is not None:
            torch.testing.assert_close(layer.keys[:, :, padding:], known.keys[:, :, padding:], rtol=0, atol=2e-5)
            torch.testing.assert_close(layer.values[:, :, padding:], known.values[:, :, padding:], rtol=0, atol=2e-5)
        else:
            torch.testing.assert_close(layer.conv_states[0], known.conv_states[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("language", ["llama", "lfm2"])
@torch.no_grad()
def test_bf16_with_the_last_position_alone(language: str, calls: list[int]) -> None:
    theirs, ours = two(language, torch.bfloat16)
    inputs_BTE, mask_BT = torch.randn(2, 12, 24).bfloat16(), torch.ones(2, 12, dtype=torch.long)
    expected, _ = talk(theirs, inputs_BTE, mask_BT, (11, 1))
    with last_position_asked():
        found, _ = talk(ours, inputs_BTE, mask_BT, (11, 1))
    assert calls == [11, 1]
    assert [states.shape[1] for states in found] == [1, 1]
    for one, other in zip(found, expected, strict=True):
        exact = other[:, -1:].float()
        assert (one.float() - exact).norm() < 0.03 * exact.norm()  # worst seen 0.01


@torch.no_grad()
def test_keys_that_several_queries_share(calls: list[int]) -> None:
    theirs, ours = two("llama", num_attention_heads=4, num_key_value_heads=2, head_dim=6)
    inputs_BTE, mask_BT = torch.randn(2, 8, 24), torch.ones(2, 8, dtype=torch.long)
    for one, other in zip(*(talk(model, inputs_BTE, mask_BT, (7, 1))[0] for model in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    assert calls == [7, 1]


def test_whatever_else_is_asked_transformers_does(calls: list[int]) -> None:
    """Gradients, attentions, a hook on a layer, training, autocast, another mask, no cache."""
    _, ours = two("lfm2")
    inputs_BTE, mask_BT = torch.randn(2, 8, 24), torch.ones(2, 8, dtype=torch.long)
    plain = {"inputs_embeds": inputs_BTE, "attention_mask": mask_BT, "position_ids": mask_BT.cumsum(1) - 1, "use_cache": True}

    def ask(**more: object) -> Any:
        return ours(**{**plain, "past_key_values": DynamicCache(config=ours.config), **more})

    assert ask().last_hidden_state.requires_grad
    with torch.no_grad():
        assert ask(past_key_values=None).last_hidden_state.shape == inputs_BTE.shape
        heard: list[Any] = []
        hook = ours.layers[0].feed_forward.register_forward_hook(lambda *given: heard.append(given))
        ask()
        hook.remove()
        assert len(heard) == 1
        with torch.autocast("cpu", torch.bfloat16):
            ask()
        ours.train()
        ask()
        ours.eval()
        assert calls == []
        ask()
        assert len(ask(output_hidden_states=True).hidden_states) == len(ours.layers) + 1
    assert calls == [8]


def test_only_language_models_that_are_written_here_are_known() -> None:
    known = {name for name in ("llama", "lfm2", "qwen3", "phi") if is_known(two(name)[0])}
    assert known == {"llama", "lfm2"}
    gelu = two("llama")[0]
    gelu.config.hidden_act = "gelu"
    assert not is_known(gelu)
