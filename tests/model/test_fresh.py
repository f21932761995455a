"""What starts from nothing: a learned tokenizer, and attention that begins by looking for what is like itself."""

from dataclasses import replace

import pytest
import torch

from mplug_owl.conversation import SYSTEM_PROMPT, Conversation
from mplug_owl.model.build import Modules, build
from mplug_owl.model.fresh import learn_tokenizer
from tests.tiny import tiny_config

TEXTS = ["the owl sees the owl", "what does the owl see"] * 5


def test_a_fresh_tokenizer_knows_everything_that_can_be_typed() -> None:
    tokenizer = learn_tokenizer(TEXTS, 300)
    assert len(tokenizer("the owl")["input_ids"]) < len("the owl")
    for text in ("naïve 🦉\n\t", "这张图片", "an owl , it 's red ."):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<s>", "</s>")
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<s>", "</s>"]) == [0, 1, 2]
    assert len(tokenizer) <= 300


def test_a_word_is_one_token_in_a_sentence_and_as_an_answer() -> None:
    talk = Conversation(()).said("user", "the star is top left").said("user", "Where?").said("assistant", "top left")
    texts = [piece.text for piece in talk.pieces() if piece.text]
    tokenizer = learn_tokenizer(texts * 20, 900, phrases=("top left",))
    (place,) = tokenizer("top left")["input_ids"]
    assert tokenizer("the star is top left")["input_ids"].count(place) == 1
    assert tokenizer.decode([place]) == "top left"
    assert tokenizer("star")["input_ids"] == tokenizer("the star")["input_ids"][1:]
    opening, *_, answering = tokenizer(texts[0])["input_ids"]
    assert tokenizer.decode([opening]) == SYSTEM_PROMPT
    assert tokenizer.decode([answering]) == "\nAI: "
    assert len(tokenizer("TOP LEFT")["input_ids"]) > 6


def test_fresh_attention_may_begin_by_looking_for_what_is_like_itself() -> None:
    modules = Modules(lambda: tiny_config(language="opt"), vocabulary=300, alike=True)
    weights = build(modules, ["a red circle"], seed=0).model.state_dict()
    queries = [name for name in weights if "language_model" in name and "q_proj" in name]
    assert queries
    for name in queries:
        assert torch.equal(weights[name], weights[name.replace("q_proj", "k_proj")])
    with pytest.raises(ValueError, match=r"alike: .*q_proj is \[24, 24\] and its keys \[12, 24\]; heads must pair up"):
        build(replace(modules, config=lambda: tiny_config(language="llama")), ["a red circle"], seed=0)
    with pytest.raises(ValueError, match="alike: bloom has no q_proj and k_proj"):
        build(replace(modules, config=lambda: tiny_config(language="bloom")), ["a red circle"], seed=0)
