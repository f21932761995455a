"""Weights that are only read: the same words or nearly, and the modules that see keep their numbers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mplug_owl.chat import Decoding, OwlChatModel, find
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.small_weights import PackedLinear, pack, to_int8
from tests.tiny import picture, shaken, tiny_config, tiny_owl, tiny_processor


def made(language: str) -> MplugOwlForConditionalGeneration:
    model = tiny_owl(tiny_config(language=language)).eval()
    shaken(model, 0.3)
    return model


@torch.no_grad()
def logits(model: MplugOwlForConditionalGeneration) -> Tensor:
    return model(input_ids=torch.arange(3, 40)[None]).logits.float()


@pytest.mark.parametrize("language", ["llama", "lfm2", "phi"])
def test_packed_weights_give_the_same_logits(language: str) -> None:
    model = made(language).bfloat16()
    expected = logits(model)
    pack(model)
    torch.testing.assert_close(logits(model), expected, rtol=0.02, atol=0.02)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert isinstance(model.lm_head, PackedLinear)
    assert not any(isinstance(module, PackedLinear) for module in model.model.vision_tower.modules())


def test_weights_in_fp32_are_not_packed() -> None:
    model = made("llama")
    pack(model)
    assert type(model.lm_head) is nn.Linear


@pytest.mark.parametrize("language", ["llama", "lfm2"])
def test_int8_weights_give_nearly_the_same_logits_and_see_the_same(language: str) -> None:
    model = made(language)
    other = copy.deepcopy(model)
    to_int8(other)
    expected, found = logits(model), logits(other)
    assert not torch.equal(expected, found)
    assert torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1] > 0.99
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model.get_image_features(pixels).pooler_output, other.get_image_features(pixels).pooler_output)
    said = OwlChatModel(Owl(other, tiny_processor(other))).answers(
        [Conversation(()).said("user", Picture(picture()), "What?")], Decoding(max_new_tokens=4)
    )
    assert len(said) == 1


def test_a_server_keeps_its_own_weights() -> None:
    with pytest.raises(UserError, match="leave --dtype int8 out"):
        find("http://localhost:1/v1#m", dtype="int8")
