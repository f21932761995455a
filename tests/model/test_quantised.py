"""The language model in 8 or 4 bits: what is rounded and what is not, gradients through it, and the way back."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mplug_owl.chat import find
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl, load
from mplug_owl.model.quantised import BYTES, QuantisedLinear, linear_weights, quantise, unquantise
from tests.model.test_convert import adapt
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor

KINDS = [
    "int8",
    pytest.param(
        "nf4", marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes: extra quantize")
    ),
]
# The largest share of the rounded weight's norm that a weight of random numbers loses; measured 0.0065 and 0.094.
LOSS = {"int8": 0.01, "nf4": 0.12}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["llama", "opt", "gemma3"])
def test_what_should_be_quantised_is_and_nothing_else(kind: Any, language: str) -> None:
    owl, original = (tiny_owl(tiny_config(language=language)) for _ in range(2))
    linears = {name for name, module in owl.named_modules() if type(module) is nn.Linear}
    expected = {name for name in linears if name.startswith("model.language_model.")}
    weights, parameters = linear_weights(owl), {name: weight.clone() for name, weight in owl.named_parameters()}
    assert set(quantise(owl, kind)) == expected
    assert {name for name, module in owl.named_modules() if isinstance(module, QuantisedLinear)} == expected
    assert {name for name, module in owl.named_modules() if type(module) is nn.Linear} == linears - expected
    assert weights == sum(original.get_submodule(name).weight.numel() for name in expected)
    for name, weight in owl.named_parameters():
        assert torch.equal(weight, parameters[name])
    for name in expected:
        before = original.get_submodule(name).weight
        assert (owl.get_submodule(name).unpacked(torch.float32) - before).norm() < LOSS[kind] * before.norm()
    unquantise(owl, original)
    assert all(torch.equal(weight, parameters[name]) for name, weight in owl.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_states_learn_through_it_as_through_the_rounded_weight(kind: Any) -> None:
    layer = nn.Linear(64, 32)
    small, rounded = QuantisedLinear(layer, kind), nn.Linear(64, 32)
    rounded.load_state_dict({"weight": small.unpacked(torch.float32), "bias": layer.bias})
    one, other = (torch.ones(3, 64).mul_(0.3).requires_grad_() for _ in range(2))
    for states, module in ((one, small), (other, rounded)):
        module(states).square().sum().backward()
    torch.testing.assert_close(small(one), rounded(other))
    torch.testing.assert_close(one.grad, other.grad)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(small(one), rounded(other), atol=1e-2, rtol=1e-2)
    assert small.to(torch.bfloat16).unpacked(torch.float32).equal(rounded.weight)  # its scales stay in fp32


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_as_planned(kind: Any) -> None:
    layer = QuantisedLinear(nn.Linear(1024, 512, bias=False), kind)
    held = [layer.packed, layer.scale_O1] if kind == "int8" else [layer.packed, layer.blocks.absmax, layer.blocks.state2.absmax]
    size = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert size == pytest.approx(BYTES[kind] * 1024 * 512, rel=0.005)
    assert BYTES["nf4"] / 2 < 0.35  # the bar, beside bf16


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_owl_answers(kind: Any, tmp_path: Path) -> None:
    owl = tiny_owl(tiny_config())
    processor = tiny_processor(owl)
    owl.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    asked = processor(text="<image>a", images=[picture()])
    small = find(str(tmp_path), "cpu", quantize=kind).model
    with torch.no_grad():
        apart = (small(**asked).logits - owl(**asked).logits).abs().max()
    assert 0 < apart < 0.5
    assert isinstance(Owl(small, processor), Owl)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_stays_beside_quantised_weights(kind: Any, tmp_path: Path) -> None:
    """As it was learned: the base is rounded, and what the adapter adds is not."""
    base = tiny_owl(tiny_config())
    processor = tiny_processor(base)
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    adapted = adapt(load(tmp_path / "base").model, tmp_path / "adapter")
    asked = processor(text="<image>a", images=[picture()])
    quantise(adapted.get_base_model(), kind)
    with torch.no_grad():
        beside = find(str(tmp_path / "adapter"), "cpu", quantize=kind).model(**asked).logits
        torch.testing.assert_close(beside, adapted(**asked).logits, atol=2e-6, rtol=0)
        merged = load(tmp_path / "adapter").model
        quantise(merged, kind)
        assert (beside - merged(**asked).logits).abs().max() > 1e-4


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model's folder."""
    owl = tiny_owl(tiny_config())
    owl.save_pretrained(tmp_path / "base")
    tiny_processor(owl).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@torch.no_grad()
def test_an_adapters_dropout_is_for_learning_alone(base: Path, tmp_path: Path) -> None:
    adapt(load(base).model, tmp_path / "adapter", lora_dropout=0.5)
    owl = load(tmp_path / "adapter", "cpu", quantize="int8")
    asked = owl.processor(text="<image>a", images=[picture()])
    assert torch.equal(owl.model(**asked).logits, owl.model(**asked).logits)


@torch.no_grad()
def test_of_two_adapters_the_first_is_in_the_rounded_weights(base: Path, tmp_path: Path) -> None:
    """As the second was learned: beside weights that held the first already."""
    adapt(load(base).model, tmp_path / "one")
    second = adapt(load(tmp_path / "one").model, tmp_path / "two")
    file = tmp_path / "two" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "../one"}))
    owl = load(tmp_path / "two", "cpu", quantize="int8")
    asked = owl.processor(text="<image>a", images=[picture()])
    quantise(second.get_base_model(), "int8")
    torch.testing.assert_close(owl.model(**asked).logits, second(**asked).logits, atol=2e-6, rtol=0)


def test_what_cannot_be_quantised_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nf4: gpt2 has no linear layers that could be quantised"):
        quantise(tiny_owl(tiny_config(language="gpt2")), "nf4")
    with pytest.raises(UserError, match="leave --quantize nf4 out"):
        find("http://localhost:1/v1#x", quantize="nf4")
    with pytest.raises(UserError, match="give one of them"):
        find("owl-tiny", dtype="int8", quantize="int8")
