"""owl-smol's recipes and the text that keeps its language."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from mplug_owl.conversation import Conversation
from mplug_owl.recipes import find, smol
from mplug_owl.recipes.smol_text import as_chat, prompts, write_answers
from tests.tiny import LANGUAGES, tiny_tokenizer


def test_both_stages_are_there_and_only_what_should_learns() -> None:
    first, second = find("smol.pretrain"), find("smol.instruct")
    assert (first.trainable.vision, first.trainable.abstractor, first.trainable.language) == ("full", "full", "frozen")
    assert (second.trainable.vision, second.trainable.abstractor, second.trainable.language) == ("frozen", "frozen", "lora")
    assert second.text_share == 0.5
    assert first.modules == second.modules == smol.OWL_SMOL


def test_prompts_are_several_hundred_and_none_is_an_open_prompt_of_the_benchmark() -> None:
    asked = prompts()
    assert len(set(asked)) == len(asked) > 300
    for word in ("pirate", "JSON", "two-line poem", "What would you cook"):
        assert not [prompt for prompt in asked if word in prompt]


def test_answers_broken_off_are_not_learned() -> None:
    learned, left = (Conversation.from_chat(as_chat("Hello!", "Hi.", ended)["messages"]) for ended in (True, False))
    assert [message.supervised for message in learned.messages] == [True, True]
    assert [message.supervised for message in left.messages] == [True, False]


def test_answers_continue_where_they_were_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    folder = tmp_path / "language"
    settings = dict(LANGUAGES["llama"])
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    asked, out = ["one", "two", "three"], tmp_path / "text.jsonl"
    write_answers(str(folder), out, asked, most_tokens=3, batch=1)
    whole = out.read_text("utf-8")
    assert [json.loads(line)["messages"][0]["content"] for line in whole.splitlines()] == asked
    out.write_text("".join(whole.splitlines(keepends=True)[:1]), encoding="utf-8")
    write_answers(str(folder), out, asked, most_tokens=3, batch=1)
    assert out.read_text("utf-8") == whole
