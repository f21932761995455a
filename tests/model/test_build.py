"""An owl out of parts: trained ones, fresh ones, and what is loaded from a folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPImageProcessorPil

from mplug_owl.conversation import SYSTEM_PROMPT, Conversation
from mplug_owl.model.build import Modules, build, count
from mplug_owl.model.clip import load_vision
from mplug_owl.model.fresh import learn_tokenizer
from mplug_owl.model.load import load, load_processor
from tests.model.test_convert import adapt
from tests.tiny import LANGUAGES, VISIONS, picture, shaken, tiny_config, tiny_owl, tiny_processor, tiny_tokenizer

TEXTS = ["the owl sees the owl", "what does the owl see"] * 5


def trained(folder: Path, auto: Any, values: dict[str, Any]) -> Any:
    """A module somebody trained, in a folder."""
    torch.manual_seed(7)
    module = auto.from_config(AutoConfig.for_model(**values)).eval()
    shaken(module)
    module.save_pretrained(folder)
    return module


def test_an_owl_from_scratch_is_its_seed() -> None:
    first, second, third = (build(Modules(tiny_config, vocabulary=300), TEXTS, seed).model for seed in (1, 1, 2))
    assert all(torch.equal(mine, yours) for mine, yours in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.model.abstractor.query_tokens, third.model.abstractor.query_tokens)


def test_a_fresh_tokenizer_knows_everything_that_can_be_typed() -> None:
    tokenizer = learn_tokenizer(TEXTS, 300)
    assert len(tokenizer("the owl")["input_ids"]) < len("the owl")
    for text in ("naïve 🦉\n\t", "这张图片"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


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


@pytest.mark.parametrize("language", ["llama", "bloom", "opt"])
def test_trained_modules_come_in_as_they_are(tmp_path: Path, language: str) -> None:
    """LLaVA's way: somebody's encoder, somebody's language model, a fresh connector."""
    vision = trained(tmp_path / "vision", AutoModel, VISIONS["siglip"])
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path / "vision")
    stock = trained(tmp_path / "language", AutoModelForCausalLM, LANGUAGES[language])
    tiny_tokenizer().save_pretrained(tmp_path / "language")
    parts = Modules(
        lambda: tiny_config("siglip", "mlp", language), vision=str(tmp_path / "vision"), language=str(tmp_path / "language")
    )
    owl = build(parts, [], seed=0)
    owl.model.eval()

    ids, pixels = torch.randint(3, 200, (1, 9)), torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(owl.model(input_ids=ids).logits, stock(input_ids=ids).logits)
        seen = owl.model.model.vision_tower(pixels).last_hidden_state
        assert torch.equal(seen, vision(pixels).last_hidden_state)
    assert owl.processor.image_processor.image_std == [0.25] * 3

    owl.model.save_pretrained(tmp_path / "owl")
    owl.processor.save_pretrained(tmp_path / "owl")
    assert all(str(tmp_path) not in file.read_text("utf-8") for file in (tmp_path / "owl").glob("*.json"))
    inputs = owl.processor(text="a<image>b", images=[picture()])
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "owl").model(**inputs).logits, owl.model(**inputs).logits)


def test_clip_becomes_the_originals_encoder(tmp_path: Path) -> None:
    """How the original's f_V began: the same numbers, with the last norm over every token."""
    values = {**VISIONS["clip"], "layer_norm_eps": 1e-6, "hidden_act": "quick_gelu"}
    clip = trained(tmp_path, AutoModel, values)
    tower, pixels = load_vision(str(tmp_path), tiny_config()).eval(), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        theirs = clip.post_layernorm(clip(pixels).last_hidden_state)
        torch.testing.assert_close(tower(pixels).last_hidden_state, theirs, atol=5e-6, rtol=0)  # worst measured 0


def test_modules_that_do_not_fit_are_named(tmp_path: Path) -> None:
    trained(tmp_path, AutoModelForCausalLM, {**LANGUAGES["llama"], "hidden_size": 32, "head_dim": 16})
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text_config: hidden_size is 24 but the weights have 32"):
        build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)
    with pytest.raises(ValueError, match=r"needs language= .* or vocabulary="):
        build(Modules(tiny_config), [], seed=0)
    trained(tmp_path / "siglip", AutoModel, VISIONS["siglip"])
    with pytest.raises(ValueError, match="a siglip_vision_model; the original's vision encoder starts from CLIP"):
        load_vision(str(tmp_path / "siglip"), tiny_config())


def test_parameters_are_counted_once() -> None:
    owl = tiny_owl(tiny_config(language="opt"))  # its head is its embedding table
    assert count(owl) == sum(weight.numel() for weight in owl.parameters())
    owl.requires_grad_(False)
    owl.model.abstractor.requires_grad_(True)
    assert count(owl, trainable=True) == count(owl.model.abstractor) < count(owl)


# Loading


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A finished run: the model lies in its folder `model`."""
    owl = tiny_owl(tiny_config())
    owl.save_pretrained(tmp_path / "run" / "model")
    tiny_processor(owl).save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run"


def test_a_model_a_run_and_an_adapter_load_alike(saved: Path, tmp_path: Path) -> None:
    inputs = load_processor(saved)(text="<image>a", images=[picture()])
    owl = load(saved)
    assert not owl.model.training
    assert torch.equal(load(saved / "model").model(**inputs).logits, owl.model(**inputs).logits)

    adapted = adapt(owl.model, tmp_path / "adapter")
    merged = load(tmp_path / "adapter")
    assert load_processor(tmp_path / "adapter").num_image_tokens == merged.processor.num_image_tokens
    torch.testing.assert_close(
        merged.model(**inputs).logits, adapted(**inputs).logits, atol=2e-6, rtol=0
    )  # worst measured 4.8e-7


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone", "no such folder; expected an owl's folder, a finished run, or a hub id OWNER/NAME"),
        ("empty", "no config.json in it"),
    ],
)
def test_what_is_no_owl_is_named(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{path}: {message}"):
        load(tmp_path / path)
