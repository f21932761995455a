"""A language model without eyes as a ChatModel: its prompt is the owl's, its answers stream, and it refuses to see."""

import pytest
import torch
from PIL import Image

from mplug_owl.chat import Chat, Decoding, find
from mplug_owl.chat.language import LanguageChatModel
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.model.load import load_processor

TALK = Conversation(()).said("user", "large red circle top left").said("user", "What colour is the circle?")


@pytest.fixture(scope="module")
def tiny() -> LanguageChatModel:
    return LanguageChatModel.open("tiny-language", "cpu")


def test_its_prompt_has_the_ids_that_an_owl_would_read(tiny: LanguageChatModel) -> None:
    talk = TALK.said("assistant", "red").said("user", "Where is it?")
    owl = load_processor("owl-tiny")
    assert tiny._answering.processor.encode(talk, reply=True).ids == owl.encode(talk, reply=True).ids


def test_it_knows_what_it_read(tiny: LanguageChatModel) -> None:
    answers = tiny.answers([TALK, Conversation(()).said("user", "What is 3 plus 4?")], Decoding(max_new_tokens=8))
    assert answers == ["red", "7"]
    assert "".join(tiny.stream(TALK, Decoding(max_new_tokens=8))) == "red"


def test_it_sees_no_pictures(tiny: LanguageChatModel) -> None:
    seen = Conversation((), name="question 3").said("user", Picture(Image.new("RGB", (9, 9))), "What is it?")
    for ask in (lambda: tiny.answers([seen], Decoding()), lambda: next(tiny.stream(seen, Decoding()))):
        with pytest.raises(UserError, match="question 3 has a picture, and a language model reads words alone"):
            ask()


def test_it_is_found_by_its_name() -> None:
    assert Chat(find("language:tiny-language", "cpu"), decoding=Decoding(max_new_tokens=8)).ask("What is 3 plus 4?") == "7"
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find("language:nowhere", "cpu")
    with pytest.raises(UserError, match="for our own models"):
        find("language:tiny-language", quantize="nf4")


def test_rounded_weights_leave_its_rotary_frequencies_as_they_are(tiny: LanguageChatModel) -> None:
    rounded = LanguageChatModel.open("tiny-language", "cpu", "bfloat16")._answering.model
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    plain = tiny._answering.model.model.language_model.rotary_emb.inv_freq
    assert torch.equal(rounded.model.language_model.rotary_emb.inv_freq, plain)
    for name in ("bf16", "int8", "nn"):
        with pytest.raises(UserError, match=f"dtype {name}: expected float32, bfloat16 or float16"):
            LanguageChatModel.open("tiny-language", "cpu", name)
