"""The LLaMA owls' tokenizer. ../parity holds its ids against the original's; here is why it is not the stock one."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mplug_owl.errors import UserError
from mplug_owl.model.tokenizer import FILES, MplugOwlTokenizer, check_tokenizer, refuse_missing
from tests.conftest import SHARED
from tests.golden import original
from tests.tiny import VOCABULARY, tiny_config, tiny_tokenizer


@pytest.fixture(scope="module", params=["our own", "owl-llama-tiny"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MplugOwlTokenizer:
    """One whose sentencepiece model tests make, and the original's where it is here."""
    if request.param == "our own":
        return MplugOwlTokenizer.from_pretrained(original.write(tmp_path_factory.mktemp("original")))
    if not (folder := SHARED / "parity" / request.param).is_dir():
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


def test_a_special_token_puts_a_space_before_the_words_that_it_ends(tokenizer: MplugOwlTokenizer) -> None:
    """So transformers 4.28 decoded it."""
    end = tokenizer.eos_token_id
    assert tokenizer.decode([*ids(tokenizer, "an owl"), end, *ids(tokenizer, "see")]) == " an owl</s>see"
    assert tokenizer.decode([end, *ids(tokenizer, "see"), end]) == "</s> see</s>"
    assert tokenizer.decode([*ids(tokenizer, "an owl"), end], skip_special_tokens=True) == "an owl"


def test_its_special_tokens_are_llamas_where_a_folder_names_none(tokenizer: MplugOwlTokenizer) -> None:
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token)
    assert special == ("<s>", "</s>", "<unk>", "<unk>")
    bare = MplugOwlTokenizer(tokenizer.vocab_file)
    assert (bare.bos_token, bare.eos_token, bare.unk_token, bare.pad_token) == special
    assert MplugOwlTokenizer(tokenizer.vocab_file, pad_token="</s>").pad_token == "</s>"


def test_it_saves_and_loads(tokenizer: MplugOwlTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again, MplugOwlTokenizer)
    assert ids(again, " a</s> b") == ids(tokenizer, " a</s> b")
    assert again.vocab_size == tokenizer.vocab_size


# A tokenizer beside a model


def test_a_folder_without_a_tokenizer_is_told_which_file_it_lacks(tmp_path: Path) -> None:
    for language, name in (("llama", FILES[0]), ("bloom", FILES[1])):
        with pytest.raises(UserError, match=rf"^{tmp_path}: no {re.escape(name)} in it; copy the tokenizer's files"):
            refuse_missing(tmp_path, tiny_config(language=language))
    (tmp_path / FILES[1]).write_text("{}")
    refuse_missing(tmp_path, tiny_config())
    refuse_missing(tmp_path / "nowhere", tiny_config())


def test_a_tokenizer_fills_the_vocabulary_and_leaves_the_pictures_id_alone() -> None:
    tokenizer, config = tiny_tokenizer(), tiny_config()
    check_tokenizer(tokenizer, config, "here")
    config.text_config.vocab_size = config.image_token_id = 2 * VOCABULARY + 1
    with pytest.raises(UserError, match=r"^here: its tokenizer has 259 entries and the model a vocabulary of 519"):
        check_tokenizer(tokenizer, config, "here")
    config = tiny_config()
    config.image_token_id = 7
    with pytest.raises(UserError, match=r"^here: image_token_id is 7, which is .*write 259 into config\.json"):
        check_tokenizer(tokenizer, config, "here")


def test_nothing_but_padding_stands_above_the_vocabulary() -> None:
    tokenizer, config = tiny_tokenizer(), tiny_config()
    config.image_token_id = VOCABULARY + 5
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    check_tokenizer(tokenizer, config, "here")
    tokenizer.add_tokens(["stranger"])
    with pytest.raises(UserError, match=r"^here: its tokenizer has 'stranger', above the model's vocabulary of 259"):
        check_tokenizer(tokenizer, config, "here")
    config.image_token_id = VOCABULARY + 1
    with pytest.raises(UserError, match=r"image_token_id is 260, which is 'stranger' in the tokenizer; .*write 261 into"):
        check_tokenizer(tokenizer, config, "here")
