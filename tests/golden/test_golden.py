"""Parity for everybody: a small owl's numbers are those that values.json holds, computed in numpy from the paper's equations.

tests/parity compares with the original itself, where its goldens lie beside the checkout; this needs nothing but the clone.
Tolerances are a few times what float32 was measured to cost, on torch 2.13 for the CPU.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mplug_owl import Conversation, MplugOwlForConditionalGeneration, MplugOwlProcessor, Picture
from mplug_owl.model.checkpoints import our_name
from tests.golden import original, reference
from tests.golden.reference import SLOPES, Sizes, few
from tests.tiny import tiny_tokenizer

SIZES = Sizes()
VALUES: dict[str, Any] = json.loads(reference.FILE.read_text("utf-8"))


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> MplugOwlForConditionalGeneration:
    """Loaded from a folder as the original leaves one."""
    folder = tmp_path_factory.mktemp("original")
    original.write(folder, SIZES)
    return MplugOwlForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def batch(owl: MplugOwlForConditionalGeneration) -> dict[str, Tensor]:
    """The conversation that the prompt of the reference writes out, ready to learn from."""
    processor = MplugOwlProcessor.for_model(owl, tiny_tokenizer())
    talk = Conversation(()).said("user", Picture(reference.picture()), "What is it?").said("assistant", reference.ANSWER)
    return dict(processor.batch([processor.encode(talk)], labels=True))


def assert_near(ours: Tensor, name: str, atol: float) -> None:
    torch.testing.assert_close(torch.tensor(few(ours.double().numpy())), torch.tensor(VALUES[name]), atol=atol, rtol=0)


def test_the_values_are_what_the_reference_computes() -> None:
    again = reference.computed()
    assert again.keys() == VALUES.keys()
    assert (again["sizes"], again["input_ids"]) == (VALUES["sizes"], VALUES["input_ids"])
    for name in ("pixel_values", "vision", "abstractor", "logits", "loss", "slopes"):
        assert again[name] == pytest.approx(VALUES[name], abs=1e-8), name


def test_a_conversation_becomes_the_same_ids(owl: MplugOwlForConditionalGeneration, batch: dict[str, Tensor]) -> None:
    ids = batch["input_ids"][0]
    assert ids.masked_fill(ids == owl.config.image_token_id, -1).tolist() == VALUES["input_ids"]


def test_a_picture_becomes_the_same_pixels(batch: dict[str, Tensor]) -> None:
    assert_near(batch["pixel_values"], "pixel_values", atol=1e-6)  # worst measured 2e-7


@torch.no_grad()
def test_vision_and_abstractor(owl: MplugOwlForConditionalGeneration, batch: dict[str, Tensor]) -> None:
    seen = owl.get_image_features(batch["pixel_values"])
    assert_near(seen.last_hidden_state, "vision", atol=5e-6)  # worst measured 9e-7
    assert_near(seen.pooler_output, "abstractor", atol=1e-5)  # worst measured 3e-6


@torch.no_grad()
def test_logits_and_loss(owl: MplugOwlForConditionalGeneration, batch: dict[str, Tensor]) -> None:
    outputs = owl(**batch)
    assert_near(outputs.logits, "logits", atol=5e-6)  # worst measured 1e-6
    assert outputs.loss.item() == pytest.approx(VALUES["loss"], abs=3e-6)  # worst measured 7e-7


def test_gradients(owl: MplugOwlForConditionalGeneration, batch: dict[str, Tensor]) -> None:
    """A gradient along a direction is the slope of the loss along it."""
    owl.zero_grad()
    owl(**batch).loss.backward()
    weights = dict(owl.named_parameters())
    for name in SLOPES:
        gradient = weights[our_name(name)].grad.double().numpy()
        along = (gradient * reference.direction(name, gradient.shape)).sum()
        assert along == pytest.approx(VALUES["slopes"][name], abs=5e-7), name  # worst measured 7e-8


def test_the_reference_is_the_original(shared: Path) -> None:
    """On a checkpoint of the original's, the equations give what the original's own code gave, down to its float32."""
    if not (folder := shared / "parity" / "owl-llama-tiny").is_dir():
        pytest.skip(f"{folder} is not here")
    theirs = load_file(folder.parent / "golden_owl-llama-tiny.safetensors")
    weights = {name: tensor.double().numpy() for name, tensor in torch.load(folder / "pytorch_model.bin").items()}
    sizes = Sizes(image=56, vision=48, vision_inner=96, vision_layers=3, vision_heads=4, queries=8, abstractor_inner=80,
                  language=64, language_inner=128, language_heads=4, vocabulary=800)  # fmt: skip
    assert all(weights[name].shape == shape for name, shape in reference.shapes(sizes).items())

    patches, visual = [], []
    for name in ("rgb0", "rgb1"):  # the third is tall, and Pillow's versions differ there
        pixels = reference.pixel_values(sizes, Image.open(folder.parent / "images" / f"{name}.png"))
        patches.append(reference.encode_images(weights, sizes, pixels)[0])
        visual.append(reference.abstract(weights, sizes, patches[-1][None])[0])
    ids = theirs["prompt.one_image.input_ids"][0].long().numpy()
    logits = reference.speak(weights, sizes, ids, visual[0])[theirs["prompt.one_image.logit_positions"].long().numpy()]
    for name, ours in (
        ("vision.last_hidden_state", np.stack(patches)),
        ("abstractor.last_hidden_state", np.stack(visual)),
        ("prompt.one_image.logits", logits),
    ):
        expected = theirs[name] if "prompt" in name else theirs[name][:2]
        torch.testing.assert_close(torch.from_numpy(ours).float(), expected, atol=5e-5, rtol=0)  # worst measured 1.4e-5
