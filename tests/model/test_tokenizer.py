"""The LLaMA owls' tokenizer. ../parity holds its ids against the original's; here is why it is not the stock one."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mplug_owl.model.tokenizer import MplugOwlTokenizer


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> MplugOwlTokenizer:
    folder = shared / "parity" / "owl-llama-tiny"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return MplugOwlTokenizer.from_pretrained(folder)


def ids(tokenizer: MplugOwlTokenizer, text: str, **kwargs: bool) -> list[int]:
    return tokenizer(text, add_special_tokens=False, **kwargs)["input_ids"]


def test_it_adds_no_begin_and_no_end(tokenizer: MplugOwlTokenizer) -> None:
    assert tokenizer("a")["input_ids"] == ids(tokenizer, "a")


def test_every_stretch_gets_a_leading_space_of_its_own(tokenizer: MplugOwlTokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, " a")) == ["▁▁", "a"]  # stock transformers 5: ["▁a"]
    assert ids(tokenizer, "a</s>b") == [*ids(tokenizer, "a"), tokenizer.eos_token_id, *ids(tokenizer, "b")]


def test_special_tokens_can_be_read_as_what_they_are_spelled(tokenizer: MplugOwlTokenizer) -> None:
    assert tokenizer.eos_token_id not in ids(tokenizer, "a</s>b", split_special_tokens=True)


def test_words_come_back(tokenizer: MplugOwlTokenizer) -> None:
    for text in ("What is in this image?", "naïve Ünïcödé 🦉", "two  spaces\n\nand lines"):
        assert tokenizer.decode(ids(tokenizer, text)) == text


def test_it_saves_and_loads(tokenizer: MplugOwlTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again, MplugOwlTokenizer)
    assert ids(again, " a</s> b") == ids(tokenizer, " a</s> b")
    assert again.vocab_size == tokenizer.vocab_size == 800
