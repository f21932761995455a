"""owl-smol's recipes and the text that keeps its language."""

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.smol import OPEN_PROMPTS
from mplug_owl.data.sources import read
from mplug_owl.recipes import find, smol, smol_open
from mplug_owl.recipes.smol_text import Drawing, as_chat, prompts, write_answers
from mplug_owl.scenes.grounded import is_grounded
from mplug_owl.scenes.things import Thing
from mplug_owl.scenes.world import Scene, scene, scenes
from tests.tiny import LANGUAGES, tiny_tokenizer


def test_both_stages_are_there_and_only_what_should_learns() -> None:
    first, second = find("smol.pretrain"), find("smol.instruct")
    assert (first.trainable.vision, first.trainable.abstractor, first.trainable.language) == ("full", "full", "frozen")
    assert (second.trainable.vision, second.trainable.abstractor, second.trainable.language) == ("frozen", "frozen", "lora")
    assert second.text_share == 0.25
    assert second.text_distillation
    assert first.modules == second.modules == smol.OWL_SMOL


def test_prompts_are_several_hundred_and_none_is_an_open_prompt_of_the_benchmark() -> None:
    asked = prompts()
    assert len(set(asked)) == len(asked) > 300
    for word in ("pirate", "JSON", "two-line poem", "What would you cook"):
        assert not [prompt for prompt in asked if word in prompt]


def test_what_instruct_reads_comes_along_and_no_open_prompt_is_the_benchmarks() -> None:
    chats, opened, text = (read(spec.rpartition("@")[0]) for spec in find("smol.instruct").data)
    assert len(chats) > len(opened) > len(text) > 300
    asked = smol_open.prompts()
    assert len(set(asked)) == len(asked) > 40
    learned = {conversation.messages[0].text for conversation in map(opened.__getitem__, range(50))}
    assert learned <= set(asked)
    assert not set(asked) & set(OPEN_PROMPTS)
    for word in ("pirate", "JSON", "poem", "cook", "title", "very short story", "child like best", "advertisement"):
        assert not [prompt for prompt in asked if word in prompt]


def test_all_open_answers_that_come_along_are_grounded() -> None:
    opened = read(find("smol.instruct").data[1].rpartition("@")[0])
    for seed, _, answer in opened.rows:
        assert is_grounded(answer, scene(seed))


def test_an_open_answer_is_kept_where_it_ends_is_short_and_names_what_is_there() -> None:
    shown = Scene((Thing("circle", "red", "small", 0, 0),), (), 0)
    begun = Counter[str]()
    assert smol_open.is_kept("A red circle it is.", True, shown, begun)
    assert not smol_open.is_kept("A red circle it is.", False, shown, begun)
    assert not smol_open.is_kept("A blue circle it is.", True, shown, begun)
    assert not smol_open.is_kept("Red!", True, shown, begun)
    assert not smol_open.is_kept("red " * 46, True, shown, begun)
    assert sum(smol_open.is_kept("A red circle it is.", True, shown, begun) for _ in range(30)) == smol_open.ALIKE - 1


@pytest.fixture
def language(tmp_path: Path) -> str:
    """A tiny language model with a chat template, in a folder."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    folder = tmp_path / "language"
    settings = dict(LANGUAGES["llama"])
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_answers_continue_where_they_were_broken_off(tmp_path: Path, language: str) -> None:
    asked, out = ["one", "two", "three"], tmp_path / "text.jsonl"
    write_answers(language, out, asked, Drawing(most_tokens=3), batch=1)
    whole = out.read_text("utf-8")
    assert [json.loads(line)["messages"][0]["content"] for line in whole.splitlines()] == asked
    out.write_text("".join(whole.splitlines(keepends=True)[:1]), encoding="utf-8")
    write_answers(language, out, asked, Drawing(most_tokens=3), batch=1)
    assert out.read_text("utf-8") == whole
    first = json.dumps(as_chat("one", "a\u2028b\x85c"), ensure_ascii=False)  # what Python takes for ends of lines
    out.write_text(first + "\n", encoding="utf-8")
    write_answers(language, out, asked, Drawing(most_tokens=3), batch=1)
    assert out.read_text("utf-8").split("\n") == [first, *whole.split("\n")[1:]]


def test_open_answers_continue_where_they_were_broken_off(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smol_open, "DRAWING", Drawing(most_tokens=4))
    monkeypatch.setattr(smol_open, "is_grounded", lambda answer, shown: shown.seed % 2 == 0)
    monkeypatch.setattr(smol_open, "WORDS", range(10))
    out = tmp_path / "open.jsonl"
    smol_open.write_open_answers(language, out, count=6, batch=2)
    whole = out.read_text("utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["scene"] for row in rows] == [shown.seed for shown in scenes(6, smol_open.SEED)]
    out.write_text("".join(whole.splitlines(keepends=True)[:4]), encoding="utf-8")
    smol_open.write_open_answers(language, out, count=6, batch=2)
    assert out.read_text("utf-8") == whole
