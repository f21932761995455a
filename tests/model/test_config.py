"""The config: paper's defaults, the original's old files, any part by its own config."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlVisionConfig, UserError
from mplug_owl.model.config import MplugOwlVisualAbstractorConfig, max_positions
from tests.tiny import tiny_config


def size(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.fixture(scope="module")
def paper() -> MplugOwlForConditionalGeneration:
    """mPLUG-Owl 7B, all defaults, without memory."""
    with torch.device("meta"):
        return MplugOwlForConditionalGeneration(MplugOwlConfig())


def test_the_defaults_are_the_papers_sizes(paper: MplugOwlForConditionalGeneration) -> None:
    vision, abstractor = size(paper.model.vision_tower), size(paper.model.abstractor)
    assert vision == 303_179_776  # the original's own code, ../shared/parity/params_fullsize.json
    assert vision + abstractor == 384_653_312  # what stage 1 learns; design/PAPER.md: 384.65 M
    assert size(paper) == 7_123_068_928  # "about 7.2B" in the paper


def test_stage_2_learns_what_the_original_learns(paper: MplugOwlForConditionalGeneration) -> None:
    layers = [
        module
        for name, module in paper.model.language_model.named_modules()
        if name.endswith(("q_proj", "v_proj"))  # LoRA of rank 8 beside these, the original's train.py
    ]
    assert sum(8 * (layer.in_features + layer.out_features) for layer in layers) == 4_194_304


def test_sizes_are_those_of_the_originals_code(shared: Path) -> None:
    file = shared / "parity" / "params_fullsize.json"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    facts = json.loads(file.read_text("utf-8"))
    for name, language in (("default_llama7b", "llama"), ("llama7b_abstractor2816", "llama"), ("bloom7b1", "bloom")):
        fact = facts[name]
        text = {"model_type": language}
        if language == "bloom":
            text |= {"hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880}
        config = MplugOwlConfig(
            vision_config=fact["vision_config"],
            visual_abstractor_config=fact["abstractor"],
            text_config=text,
            num_query_tokens=fact["num_query_tokens"],
        )
        with torch.device("meta"):
            owl = MplugOwlForConditionalGeneration(config)
        assert size(owl) == fact["total_parameters"], name
        assert size(owl.model.vision_tower) == fact["by_part"]["vision_model"]
        assert size(owl.model.abstractor) == fact["by_part"]["abstractor"] + fact["by_part"]["query_tokens"]


def test_old_files_load_whatever_else_they_hold() -> None:
    """A BLOOM owl's config.json has words where numbers belong, and dozens of fields that transformers 5 dropped."""
    old = {
        "model_type": "mplug-owl",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "torch_dtype": "float32",
        "use_decoder_only_language_model": True,
        "text_config": {"model_type": "bloom", "n_layer": 2, "n_head": 4, "vocab_size": 800, "max_length": 20, "top_k": 50},
        "vision_config": {"hidden_size": 48, "use_flash_attn": False, "hidden_act": "gelu"},
        "visual_abstractor_config": {"hidden_size": 48, "encoder_hidden_size": 48, "num_beams": 1},
    }
    config = MplugOwlConfig.from_dict(old)
    assert config.text_config.num_hidden_layers == 2
    assert config.tie_word_embeddings  # as BLOOM does, whatever the outer file says
    assert config.visual_abstractor_config.connector == "abstractor"
    again = MplugOwlConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()


def test_a_pictures_id_is_one_that_no_text_can_have() -> None:
    assert tiny_config().image_token_id == tiny_config().text_config.vocab_size


def test_the_abstractor_is_as_wide_as_the_vision_encoder() -> None:
    assert MplugOwlConfig(vision_config={"hidden_size": 48}).visual_abstractor_config.hidden_size == 48
    config = MplugOwlConfig(vision_config={"hidden_size": 48}, visual_abstractor_config={"hidden_size": 32})
    with torch.device("meta"), pytest.raises(ValueError, match="hidden_size 32 must equal the vision encoder's 48"):
        MplugOwlForConditionalGeneration(config)


def test_of_a_composite_config_the_right_half_is_taken() -> None:
    config = MplugOwlConfig(vision_config=AutoConfig.for_model("clip"), text_config={"model_type": "gemma3"})
    assert config.vision_config.model_type == "clip_vision_model"
    assert config.text_config.model_type == "gemma3_text"


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ValueError, match="vision_config: model_type 'clop'"):
        MplugOwlConfig(vision_config={"model_type": "clop"})
    with pytest.raises(UserError, match="connector 'glue': expected abstractor, linear"):
        tiny_config(connector="glue")


def test_names_in_the_place_of_numbers_are_passed_over() -> None:
    """BLOOM owls of the original's say which field of their language model holds the number."""
    config = MplugOwlConfig(num_attention_heads="n_head", num_hidden_layers="n_layer")
    assert not hasattr(config, "num_attention_heads")
    assert not hasattr(config, "num_hidden_layers")


def test_a_part_may_come_as_its_config() -> None:
    part = MplugOwlVisualAbstractorConfig(hidden_size=48, encoder_hidden_size=48)
    config = MplugOwlConfig(visual_abstractor_config=part, vision_config=MplugOwlVisionConfig(hidden_size=48))
    assert config.visual_abstractor_config is part
    assert config.vision_config.hidden_size == 48
    assert MplugOwlConfig(vision_config={"hidden_size": 32}).visual_abstractor_config.hidden_size == 32


def test_how_many_positions_a_language_model_has() -> None:
    assert max_positions(AutoConfig.for_model("llama", max_position_embeddings=77)) == 77
    assert max_positions(AutoConfig.for_model("bloom")) is None


def test_the_config_is_known_by_its_names(tmp_path: Path) -> None:
    config = tiny_config()
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is MplugOwlConfig
    assert again.text_config.to_dict() == config.text_config.to_dict()
    values = {"model_type": "mplug_owl_visual_abstract", "num_hidden_layers": 3}
    assert type(AutoConfig.for_model(**values)) is MplugOwlVisualAbstractorConfig
    assert MplugOwlConfig(visual_abstractor_config=values).visual_abstractor_config.num_hidden_layers == 3


def test_an_untied_head_is_the_default() -> None:
    assert MplugOwlConfig().tie_word_embeddings is False
    assert MplugOwlConfig().initializer_range == MplugOwlVisualAbstractorConfig().initializer_range == 0.02


def test_heads_divide_their_width() -> None:
    with pytest.raises(UserError, match="vision_config: hidden_size 20 is not divisible by its num_attention_heads, 3"):
        MplugOwlVisionConfig(hidden_size=20, num_attention_heads=3)
    for connector in ("abstractor", "qformer", "resampler"):
        with pytest.raises(UserError, match=r"visual_abstractor_config: hidden_size 20 is not divisible by .*, 16"):
            MplugOwlVisualAbstractorConfig(connector=connector, hidden_size=20)
    assert MplugOwlVisualAbstractorConfig(connector="mlp", hidden_size=20).hidden_size == 20


@pytest.mark.parametrize("kind", ["clip_vision_model", "t5"])
def test_what_continues_no_text_is_no_language_model(kind: str) -> None:
    with pytest.raises(UserError, match=f"text_config: {kind} is no language model that continues text"):
        MplugOwlConfig(text_config={"model_type": kind})
