"""The names that users type. Changing one breaks somebody's program: it needs a line in CHANGELOG.md."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

import mplug_owl
from mplug_owl.chat import Chat, load
from tests.tiny import tiny_config, tiny_processor

NAMES = [
    "Conversation",
    "Message",
    "MplugOwlConfig",
    "MplugOwlForConditionalGeneration",
    "MplugOwlModel",
    "MplugOwlProcessor",
    "MplugOwlVisionConfig",
    "MplugOwlVisualAbstractorConfig",
    "Picture",
    "VisualAbstractor",
]


def test_these_are_the_public_names() -> None:
    assert mplug_owl.__all__ == NAMES == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_explains_itself(name: str) -> None:
    assert getattr(mplug_owl, name).__doc__


def test_the_auto_classes_know_the_owl(tmp_path: Path) -> None:
    assert isinstance(AutoConfig.for_model("mplug-owl"), mplug_owl.MplugOwlConfig)
    model = AutoModelForImageTextToText.from_config(tiny_config())
    assert isinstance(model, mplug_owl.MplugOwlForConditionalGeneration)
    assert isinstance(AutoModel.from_config(tiny_config()), mplug_owl.MplugOwlModel)
    model.save_pretrained(tmp_path)
    tiny_processor(model).save_pretrained(tmp_path)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), mplug_owl.MplugOwlForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), mplug_owl.MplugOwlProcessor)


def test_a_chat_is_two_names() -> None:
    assert callable(Chat)
    assert callable(load)
