"""An owl out of parts, trained ones and fresh ones."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    MobileViTImageProcessorPil,
    ViTImageProcessorPil,
)

from mplug_owl import MplugOwlProcessor
from mplug_owl.errors import UserError
from mplug_owl.model.build import Modules, build, count
from mplug_owl.model.clip import load_vision
from mplug_owl.model.load import load
from tests.tiny import LANGUAGES, VISIONS, picture, shaken, tiny_config, tiny_owl, tiny_tokenizer

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


def test_fresh_attention_looks_for_what_is_like_itself_where_it_is_asked_to() -> None:
    for alike in (False, True):
        weights = build(Modules(lambda: tiny_config(language="opt"), vocabulary=300, alike=alike), TEXTS, seed=0).model
        attention = weights.model.language_model.decoder.layers[0].self_attn
        assert torch.equal(attention.q_proj.weight, attention.k_proj.weight) == alike


def test_a_pictures_id_stands_above_the_vocabulary_of_the_weights(tmp_path: Path) -> None:
    trained(tmp_path, AutoModelForCausalLM, {**LANGUAGES["llama"], "vocab_size": 300})
    tiny_tokenizer().save_pretrained(tmp_path)
    owl = build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)
    assert owl.model.config.image_token_id == owl.processor.image_token_id == 300
    assert owl.model.lm_head.weight.shape[0] == 300


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


def test_a_bf16_language_model_keeps_its_rotary_frequencies(tmp_path: Path) -> None:
    """Rounded to bf16, a position of some hundreds is turned by another angle."""
    stock = trained(tmp_path, AutoModelForCausalLM, LANGUAGES["llama"])
    stock.to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    owl = build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)
    exact = type(stock.model.rotary_emb)(stock.config).inv_freq
    assert torch.equal(owl.model.model.language_model.rotary_emb.inv_freq, exact)
    assert {weight.dtype for weight in owl.model.parameters()} == {torch.bfloat16}


def test_modules_that_do_not_fit_are_named(tmp_path: Path) -> None:
    trained(tmp_path, AutoModelForCausalLM, {**LANGUAGES["llama"], "hidden_size": 32, "head_dim": 16})
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text_config: hidden_size is 24 but the weights have 32"):
        build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)
    with pytest.raises(ValueError, match=r"needs language= .* or vocabulary="):
        build(Modules(tiny_config), [], seed=0)


def test_a_part_that_git_lfs_has_not_fetched_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"tokenizer\.json: a git-lfs pointer, not the file; run git lfs pull"):
        build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)


@torch.no_grad()
def test_padding_above_the_embedding_table_is_no_picture(tmp_path: Path) -> None:
    """A [PAD] that a fine-tuner put in, one above the table: the pictures' id is another, and rows are filled with ends."""
    trained(tmp_path, AutoModelForCausalLM, LANGUAGES["llama"])
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == LANGUAGES["llama"]["vocab_size"]
    tokenizer.save_pretrained(tmp_path)
    owl = build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)
    assert owl.model.config.image_token_id == owl.processor.image_token_id == tokenizer.pad_token_id + 1
    both = owl.processor(text=["<image>a", "a"], images=[[picture()], []])
    assert both["input_ids"][1, 0] == tokenizer.eos_token_id
    owl.model.eval()
    torch.testing.assert_close(
        owl.model(**both).logits[1, -1], owl.model(**owl.processor(text="a")).logits[0, -1], atol=1e-5, rtol=0
    )  # worst measured 1.2e-7

    owl.model.save_pretrained(tmp_path / "owl")
    owl.processor.save_pretrained(tmp_path / "owl")
    again = load(tmp_path / "owl")
    assert again.model.config.image_token_id == again.processor.image_token_id == tokenizer.pad_token_id + 1


def test_parameters_are_counted_once() -> None:
    owl = tiny_owl(tiny_config(language="opt"))  # its head is its embedding table
    assert count(owl) == sum(weight.numel() for weight in owl.parameters())
    owl.requires_grad_(False)
    owl.model.abstractor.requires_grad_(True)
    assert count(owl, trainable=True) == count(owl.model.abstractor) < count(owl)


def test_settings_for_drawing_words_where_none_are_drawn_do_not_end_a_run(tmp_path: Path) -> None:
    """vicuna-7b-v1.5 has these; transformers would not save them once anything beside them has changed."""
    trained(tmp_path, AutoModelForCausalLM, LANGUAGES["llama"])
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"max_length": 4096, "temperature": 0.9, "top_p": 0.6}')
    owl = build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)
    owl.model.generation_config.eos_token_id = [2]
    owl.model.save_pretrained(tmp_path / "owl")
    owl.processor.save_pretrained(tmp_path / "owl")
    again = load(tmp_path / "owl").model
    again.generation_config.eos_token_id = [2, 3]
    again.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "owl").model.generation_config.max_length == 4096


@pytest.mark.parametrize("damage", ["missing", "misshapen", "cut"])
@pytest.mark.parametrize("part", ["vision", "language"])
def test_a_part_with_a_missing_or_damaged_weight_is_named(tmp_path: Path, part: str, damage: str) -> None:
    """transformers would go on with random numbers in its place."""
    name = {"vision": "encoder.layers.1.mlp.fc1.weight", "language": "model.layers.1.mlp.up_proj.weight"}[part]
    auto, values = {"vision": (AutoModel, VISIONS["siglip"]), "language": (AutoModelForCausalLM, LANGUAGES["llama"])}[part]
    trained(tmp_path, auto, values)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        weights = load_file(file)
        (found,) = (one for one in weights if one.endswith(name))
        weights = (
            weights | {found: torch.ones(3, 3)} if damage == "misshapen" else {n: w for n, w in weights.items() if n != found}
        )
        save_file(weights, file, metadata={"format": "pt"})
    message = (
        rf"{part}=.*: no .* can be loaded from there; " if damage == "cut" else rf"{part}=.*: 1 weights missing .*: .*{name}"
    )
    modules = Modules(lambda: tiny_config("siglip"), vocabulary=300, vision=str(tmp_path))
    if part == "language":
        modules = Modules(tiny_config, language=str(tmp_path))
    with pytest.raises(UserError, match=message):
        build(modules, TEXTS, seed=0)


def test_a_head_that_is_the_embedding_table_is_not_missing(tmp_path: Path) -> None:
    trained(tmp_path, AutoModelForCausalLM, {**LANGUAGES["llama"], "tie_word_embeddings": True})
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    tiny_tokenizer().save_pretrained(tmp_path)
    model = build(Modules(tiny_config, language=str(tmp_path)), [], seed=0).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_eyes_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vision=.*visoin: no vision encoder can be loaded from there"):
        build(Modules(tiny_config, vocabulary=300, vision=str(tmp_path / "visoin")), TEXTS, seed=0)
    trained(tmp_path, AutoModel, VISIONS["siglip"])
    with pytest.raises(UserError, match=r"vision=.*: no image processor can be loaded from there"):
        build(Modules(lambda: tiny_config("siglip"), vocabulary=300, vision=str(tmp_path)), TEXTS, seed=0)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("generation_config.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer_config.json", b"[]"),
        ("config.json", b"null"),
    ],
)
def test_a_language_models_damaged_file_is_named(tmp_path: Path, name: str, damage: bytes) -> None:
    """Of generation_config.json transformers would say nothing, and end answers by settings of its own."""
    trained(tmp_path, AutoModelForCausalLM, LANGUAGES["llama"])
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(UserError, match=r"language=.*: no language model can be loaded|generation_config\.json: damaged"):
        build(Modules(tiny_config, language=str(tmp_path)), [], seed=0)


@pytest.mark.skipif(find_spec("timm") is not None, reason="what is missing is here")
def test_an_encoder_whose_package_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224"}))
    with pytest.raises(UserError, match=r"vision=.*: no vision encoder can be loaded from there; .*timm"):
        load_vision(str(tmp_path), tiny_config())


def test_pictures_are_normalised_as_the_encoders_were() -> None:
    """A processor may rescale or normalise nothing; its statistics are then beside the point."""
    owl, tokenizer = tiny_owl(tiny_config()), tiny_tokenizer()
    white = Image.new("RGB", (28, 28), "white")

    def level(**fields: Any) -> float:
        images = MplugOwlProcessor.for_model(owl, tokenizer, ViTImageProcessorPil(**fields)).image_processor
        return float(images(white)["pixel_values"].mean())

    assert level() == pytest.approx(1.0)  # (1 - 0.5) / 0.5
    assert level(do_normalize=False) == pytest.approx(1.0)
    assert level(do_normalize=False, image_mean=[0.2] * 3, image_std=[0.1] * 3) == pytest.approx(1.0)
    assert level(do_normalize=False, do_rescale=False) == pytest.approx(255.0)
    turned = MobileViTImageProcessorPil()
    with pytest.raises(UserError, match=r"MobileViTImageProcessorPil gives blue before red .*an owl's pictures are RGB"):
        MplugOwlProcessor.for_model(owl, tokenizer, turned)
    turned.do_flip_channel_order = False
    assert float(MplugOwlProcessor.for_model(owl, tokenizer, turned).image_processor(white)["pixel_values"].max()) == 1.0
