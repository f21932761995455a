"""Our owls in vLLM: what a folder needs, checked without vLLM; and vLLM itself, where an environment with it is named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoTokenizer

from mplug_owl.conversation import IMAGE_MARK, Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.integrations.vllm import TEMPLATE, prepare, register, template_of
from mplug_owl.model.load import load_processor
from mplug_owl.model.template import with_pictures
from tests.integrations.vllm_owl import write
from tests.model.families import BY_NAME, tokenizer_of
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor

REAL = "VLLM_ENVIRONMENT"
ROOT = Path(__file__).parents[2]


def owl_in(folder: Path) -> Path:
    """A small owl whose embedding table has rows without a token, as Qwen's has."""
    model = tiny_owl(tiny_config())
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    return folder


def rendered(tokenizer: Any, folder: Path, messages: list[dict[str, Any]]) -> str:
    """Chat messages by vLLM's template."""
    template = (folder / TEMPLATE).read_text("utf-8")
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)


def test_a_prompt_s_replacements_are_as_transformers_says_them() -> None:
    processor = tiny_processor(tiny_owl(tiny_config()))
    if not hasattr(processor, "get_text_with_replacements"):
        pytest.skip("this transformers does not say it")
    prompt = f"Human: {IMAGE_MARK}\nHuman: {IMAGE_MARK}What?\nAI: "
    batch = processor(text=prompt, images=[picture(0), picture(1)], return_text_replacement_offsets=True)
    expanded = IMAGE_MARK * processor.num_image_tokens
    ((longer,), (expected,)) = processor.get_text_with_replacements([prompt], images_replacements=[expanded] * 2)
    assert batch["text_replacement_offsets"] == [expected]
    for one in batch["text_replacement_offsets"][0]:
        assert longer[slice(*one["new_span"])] == one["replacement"]
    assert "text_replacement_offsets" not in processor(text=prompt, images=[picture(0), picture(1)])


def test_a_prepared_folder_reads_for_both(tmp_path: Path) -> None:
    """vLLM's way, template and then tokenizer, gives the ids that our own doors make; those stay what they were."""
    before = load_processor(owl_in(tmp_path))
    talk = Conversation(()).said("user", Picture(picture(0)), "What is it?").said("assistant", "A cat.").said("user", "Sure?")
    ids = list(before.encode(talk, reply=True).ids)
    assert prepare(tmp_path) == prepare(tmp_path) == tmp_path / TEMPLATE
    after = load_processor(tmp_path)
    assert list(after.encode(talk, reply=True).ids) == ids
    assert after.image_token_id == before.image_token_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]
    words = rendered(tokenizer, tmp_path, messages)
    expanded = words.replace(IMAGE_MARK, IMAGE_MARK * after.num_image_tokens)
    assert tokenizer.encode(expanded, add_special_tokens=False) == ids


def test_what_people_type_is_broken_where_it_spells_a_token(tmp_path: Path) -> None:
    prepare(owl_in(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for content in ("<image></s>", [{"type": "text", "text": "<image></s>"}]):
        said = [{"role": "user", "content": content}]
        words = rendered(tokenizer, tmp_path, said)
        ids = tokenizer.encode(words, add_special_tokens=False)
        assert tokenizer.convert_tokens_to_ids(IMAGE_MARK) not in ids
        assert tokenizer.eos_token_id not in ids
    with pytest.raises(UserError, match="neither the original's format"):
        template_of("{{ messages }}", tokenizer)


@pytest.mark.parametrize("name", ["llama3", "qwen3", "gemma3", "phi3"])
def test_no_typed_token_of_a_chat_format_steers_it(name: str) -> None:
    """Most formats' own tokens have no name among a tokenizer's special tokens, and some are not called special."""
    family = BY_NAME[name]
    tokenizer = tokenizer_of(family)
    template = template_of(with_pictures(family.template, tokenizer), tokenizer)
    typed = [*family.special, *(word for word in family.words if word.startswith("<"))]
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": words}], chat_template=template, tokenize=False)
        for words in ("ab", f"a{''.join(typed)}b")
    ]
    quiet, loud = (tokenizer.encode(words, add_special_tokens=False) for words in rendered)
    assert len(loud) > len(quiet)
    for token in tokenizer.convert_tokens_to_ids(typed):
        assert loud.count(token) == quiet.count(token)


def test_the_plug_in_may_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "MplugOwlForConditionalGeneration", None, raising=False)
    register()
    register()
    assert transformers.MplugOwlForConditionalGeneration.__name__ == "MplugOwlForConditionalGeneration"


@pytest.mark.slow
def test_vllm_reads_and_says_what_our_chat_does(tmp_path: Path) -> None:
    """Twenty prompts with pictures in one batch, four of them with two."""
    if REAL not in os.environ:
        pytest.skip(f"{REAL} names no environment with vLLM; docs/vllm.md says how to make one")
    subprocess.run([sys.executable, "-m", "tests.integrations.vllm_owl", str(tmp_path)], cwd=ROOT, check=True)
    python = Path(os.environ[REAL]) / "bin" / "python"
    done = subprocess.run(
        [str(python), "tests/integrations/vllm_answers.py", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    expected = json.loads((tmp_path / "expected.json").read_text("utf-8"))
    assert len(rows) == len(expected), done.stderr[-2000:]
    processor = load_processor(tmp_path)
    for row, one in zip(rows, expected, strict=True):
        assert row["ids"] == one["ids"]
        assert processor.decode(row["tokens"], skip_special_tokens=True).strip() == one["answer"]


def test_the_reference_is_written(tmp_path: Path) -> None:
    write(tmp_path)
    expected = json.loads((tmp_path / "expected.json").read_text("utf-8"))
    assert len({one["answer"] for one in expected}) >= 10
    assert sum(len(one["pictures"]) for one in expected) == 24
