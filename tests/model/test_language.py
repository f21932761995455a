"""A language model from one GGUF file: its weights, its tokenizer, its template, and what is refused."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mplug_owl import Modules, MplugOwlConfig
from mplug_owl.errors import UserError
from mplug_owl.model.build import build
from mplug_owl.model.language import language_config, load_language, load_tokenizer
from mplug_owl.model.load import load
from tests.gguf_file import TEMPLATE, tiny_llama, write_gguf
from tests.tiny import VISIONS, picture

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="needs the package gguf: pip install 'mplug-owl[gguf]'")


@needs_gguf
@torch.no_grad()
@pytest.mark.parametrize("tie", [False, True])
def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path: Path, tie: bool) -> None:
    stock = tiny_llama(tie)
    write_gguf(tmp_path / "tiny.gguf", stock)
    ids = torch.randint(3, 200, (1, 12))
    found = load_language(str(tmp_path / "tiny.gguf")).eval()
    torch.testing.assert_close(found(input_ids=ids).logits, stock(input_ids=ids).logits)
    found.save_pretrained(tmp_path / "plain")  # transformers would not save one that still knows of its blocks
    assert "quantization" not in (tmp_path / "plain" / "config.json").read_text("utf-8")
    assert language_config(str(tmp_path / "tiny.gguf")).num_key_value_heads == 2


@needs_gguf
@torch.no_grad()
def test_blocks_are_unpacked_and_an_owl_of_them_is_saved(tmp_path: Path) -> None:
    stock, file = tiny_llama(), str(tmp_path / "tiny.gguf")
    write_gguf(tmp_path / "tiny.gguf", stock, quantised=True)

    def sizes() -> MplugOwlConfig:
        return MplugOwlConfig(
            vision_config=VISIONS["own"],
            visual_abstractor_config=SMALL,
            text_config=language_config(file),
            num_query_tokens=4,
        )

    owl = build(Modules(sizes, language=file), [], seed=0)
    owl.model.eval()
    ids = torch.randint(3, 200, (1, 12))
    torch.testing.assert_close(owl.model(input_ids=ids).logits, stock(input_ids=ids).logits, atol=2e-2, rtol=0)  # 5e-3 measured
    owl.model.save_pretrained(tmp_path / "owl")
    owl.processor.save_pretrained(tmp_path / "owl")
    inputs = owl.processor(text="a<image>b", images=[picture()])
    assert torch.equal(load(tmp_path / "owl", device="cpu").model(**inputs).logits, owl.model(**inputs).logits)


@needs_gguf
def test_its_tokenizer_cuts_as_in_training(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    tokenizer = load_tokenizer(str(tmp_path / "tiny.gguf"))
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    # SmolLM's takes numbers apart first; by GPT-2's rule the second line end would belong to the number.
    assert tokenizer.tokenize("ab\n\n12</s>") == ["ab", "ĊĊ", "1", "2", "</s>"]
    write_gguf(tmp_path / "gpt.gguf", tiny_llama(), rule="gpt-2")
    assert load_tokenizer(str(tmp_path / "gpt.gguf")).tokenize("ab\n\n12") == ["ab", "Ċ", "Ċ", "1", "2"]


@needs_gguf
def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gguf: no such file; expected a GGUF file"):
        load_language(str(tmp_path / "none.gguf"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing more")
    for read in (load_language, load_tokenizer, language_config):
        with pytest.raises(UserError, match=r"broken\.gguf: cannot be read as a GGUF file"):
            read(str(tmp_path / "broken.gguf"))
    write_gguf(tmp_path / "odd.gguf", tiny_llama(), rule="nobodys-rule")
    with pytest.raises(
        UserError, match=r"odd\.gguf: cuts words as 'nobodys-rule', which is not known here; put .*tokenizer\.json"
    ):
        load_tokenizer(str(tmp_path / "odd.gguf"))


def test_without_the_package_gguf_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"need the package gguf: pip install 'mplug-owl\[gguf\]'"):
        load_language(str(tmp_path / "tiny.gguf"))
