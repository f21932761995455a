"""Weights come in checked: all of them, none too many, none with code in it."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlModel
from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import fit_to_weights, is_wrapped, original_name, read_config, read_tensors
from tests.tiny import LANGUAGES, tiny_config, tiny_owl


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A small owl saved in our layout."""
    tiny_owl(tiny_config()).save_pretrained(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def originals(ours: Path, tmp_path: Path) -> Path:
    """The same owl as the original saved it: its names, a pickle of tensors, rotary tables among them."""
    folder = tmp_path / "originals"
    folder.mkdir()
    shutil.copy(ours / "config.json", folder)
    weights = {original_name(name, "llama"): tensor for name, tensor in load_file(ours / "model.safetensors").items()}
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def load(folder: Path, **kwargs: Any) -> MplugOwlForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(folder, **kwargs)


def same(first: MplugOwlForConditionalGeneration, second: MplugOwlForConditionalGeneration) -> bool:
    mine, yours = first.state_dict(), second.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


def edit(file: Path, change: Any) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


# Layouts


def test_the_originals_layout_loads_bit_for_bit(ours: Path, originals: Path) -> None:
    assert same(load(originals), load(ours))


def test_the_originals_layout_loads_from_safetensors(ours: Path, originals: Path) -> None:
    save_file(read_tensors(originals / "pytorch_model.bin"), originals / "model.safetensors", metadata={"format": "pt"})
    (originals / "pytorch_model.bin").unlink()
    assert same(load(originals), load(ours))


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_shards_load(ours: Path, originals: Path, kind: str) -> None:
    weights = list(read_tensors(originals / "pytorch_model.bin").items())
    (originals / "pytorch_model.bin").unlink()
    stem = {"bin": "pytorch_model", "safetensors": "model"}[kind]
    places = {}
    for number, part in enumerate((weights[:20], weights[20:]), start=1):
        shard = f"{stem}-{number:05d}-of-00002.{kind}"
        if kind == "bin":
            torch.save(dict(part), originals / shard)
        else:
            save_file(dict(part), originals / shard, metadata={"format": "pt"})
        places |= {name: shard for name, _ in part}
    index = originals / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    assert same(load(originals), load(ours))

    (originals / shard).unlink()
    with pytest.raises(ValueError, match=rf"names {shard}, which is not in"):
        load(originals)


@pytest.mark.parametrize("text", ['{"weight_map": {"a', "[]", "{}", '{"weight_map": [1]}'])
@pytest.mark.parametrize("connector", ["abstractor", "linear"])
def test_an_index_that_is_damaged_is_named(text: str, connector: str, tmp_path: Path) -> None:
    tiny_config(connector=connector).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: damaged; expected a weight_map"):
        load(tmp_path)


def test_a_later_shard_that_is_cut_short_is_named(originals: Path) -> None:
    """The abstractor's width, which is read first, stands in the shard before it."""
    weights = sorted(read_tensors(originals / "pytorch_model.bin").items())
    (originals / "pytorch_model.bin").unlink()
    places = {}
    for shard, part in (("1.bin", weights[:-5]), ("2.bin", weights[-5:])):
        torch.save(dict(part), originals / shard)
        places |= {name: shard for name, _ in part}
    (originals / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    whole = (originals / "2.bin").read_bytes()
    (originals / "2.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"2\.bin: not readable as weights, cut short or damaged"):
        load(originals)


def test_saving_writes_our_names_whatever_was_loaded(originals: Path, tmp_path: Path) -> None:
    owl = load(originals)
    owl.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == owl.state_dict().keys()


@pytest.mark.parametrize("inner", [32, 48])
def test_the_abstractors_width_is_read_from_the_weights(originals: Path, inner: int, tmp_path: Path) -> None:
    """Released weights have 2816, the original's default says 4096, and its config.json need not say which."""
    config = tiny_config()
    config.visual_abstractor_config.intermediate_size = inner
    owl = tiny_owl(config)
    torch.save(
        {original_name(name, "llama"): tensor for name, tensor in owl.state_dict().items()}, originals / "pytorch_model.bin"
    )
    for stated in ({"intermediate_size": 40}, {}):
        values = json.loads((originals / "config.json").read_text())
        values["visual_abstractor_config"].pop("intermediate_size", None)
        values["visual_abstractor_config"] |= stated
        (originals / "config.json").write_text(json.dumps(values))
        loaded = load(originals)
        assert same(loaded, owl)
        assert loaded.config.visual_abstractor_config.intermediate_size == inner


def test_max_length_counts_as_the_original_did(originals: Path) -> None:
    """There it is the begin token and the new ones; in transformers it would be the prompt and the new ones."""
    (originals / "generation_config.json").write_text(json.dumps({"max_length": 512, "do_sample": True, "top_k": 3}))
    settings = load(originals).generation_config
    assert (settings.max_new_tokens, settings.max_length) == (511, None)


def test_an_owl_without_its_head_loads_from_a_whole_one(ours: Path, originals: Path) -> None:
    for folder in (ours, originals):
        assert torch.equal(AutoModel.from_pretrained(folder).abstractor.vit_eos, load(ours).model.abstractor.vit_eos)


def test_engines_that_read_what_may_be_left_out_keep_the_head(ours: Path) -> None:
    """vLLM loads by the base model, reads this list of it, and would drop the head in silence."""
    for model in (MplugOwlModel, AutoModel.from_pretrained(ours), load(ours)):
        assert not any(re.search(pattern, "lm_head.weight") for pattern in model._keys_to_ignore_on_load_unexpected)


def test_weights_keep_the_precision_of_their_file(ours: Path) -> None:
    load(ours, dtype=torch.bfloat16).save_pretrained(ours)
    assert load(ours).dtype == torch.bfloat16


def test_what_was_loaded_can_be_asked_for(ours: Path) -> None:
    owl, info = load(ours, output_loading_info=True, weights_only=True)
    assert same(owl, load(ours))
    assert not info["missing_keys"]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_shapes_alone_can_be_read(ours: Path, originals: Path, file: str) -> None:
    path = (ours if file.endswith("safetensors") else originals) / file
    whole, shapes = read_tensors(path), read_tensors(path, "meta")
    assert {name: tensor.shape for name, tensor in shapes.items()} == {name: tensor.shape for name, tensor in whole.items()}
    assert {tensor.device.type for tensor in shapes.values()} == {"meta"}
    assert {tensor.device.type for tensor in whole.values()} == {"cpu"}
    assert all(tensor.isfinite().all() for tensor in whole.values())


def test_a_training_checkpoint_of_stage_2_is_told_from_others(ours: Path, originals: Path) -> None:
    assert not is_wrapped(ours)
    assert not is_wrapped(originals)
    weights = read_tensors(originals / "pytorch_model.bin")
    torch.save({f"base_model.model.{name}": tensor for name, tensor in weights.items()}, originals / "pytorch_model.bin")
    assert is_wrapped(originals)
    with pytest.raises(UserError, match=r"a training checkpoint of the original's stage 2.*owl convert BASE NEW --adapter "):
        load(originals)


# Nothing missing, nothing left over


def test_a_missing_weight_is_an_error_that_names_it(ours: Path) -> None:
    edit(ours / "model.safetensors", lambda weights: weights.pop("model.abstractor.query_tokens"))
    with pytest.raises(ValueError, match=r"1 missing: model\.abstractor\.query_tokens"):
        load(ours)


def test_an_unexpected_weight_is_an_error_that_names_it(ours: Path) -> None:
    edit(ours / "model.safetensors", lambda weights: weights.update({"model.third_eye.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"1 unexpected: model\.third_eye\.weight"):
        load(ours)


def test_a_misshapen_weight_is_an_error_that_names_it(ours: Path) -> None:
    edit(ours / "model.safetensors", lambda weights: weights.update({"lm_head.weight": torch.ones(3, 3)}))
    with pytest.raises(ValueError, match=r"1 misshapen: lm_head\.weight \(3, 3\), expected \(259, 24\)"):
        load(ours)
    assert load(ours, ignore_mismatched_sizes=True).lm_head.weight.shape == (259, 24)


def test_another_models_checkpoint_is_refused_by_its_name(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LANGUAGES["llama"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type 'llama'; expected 'mplug-owl'"):
        MplugOwlForConditionalGeneration.from_pretrained(tmp_path)


def test_another_models_weights_under_our_config_are_refused(ours: Path) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LANGUAGES["llama"])).save_pretrained(ours)
    tiny_config().save_pretrained(ours)
    with pytest.raises(ValueError, match=r"not the weights of the owl in its config\.json"):
        load(ours)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    tiny_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no weights; expected one of model\.safetensors"):
        load(tmp_path)


def test_a_config_given_wins_over_the_folders(ours: Path) -> None:
    config = MplugOwlConfig.from_pretrained(ours)
    config.num_query_tokens = 5
    with pytest.raises(ValueError, match="query_tokens"):
        load(ours, config=config)


def test_a_config_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=rf"^{tmp_path}: its config\.json cannot be read; .*"):
        read_config(tmp_path)
    values = {"model_type": "mplug-owl", "vision_config": {"patch_size": 14, "stem_channels": [8, 8]}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"^vision_config: .*stem_channels: 2 convolutions halve a patch 2 times"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mplug-owl", "num_query_tokens": "many"}))
    with pytest.raises(UserError, match=rf"^{tmp_path}: its config\.json cannot be read; .*num_query_tokens"):
        read_config(tmp_path)


def test_a_width_is_read_from_a_folder_and_for_the_abstractor_alone(ours: Path) -> None:
    config, linear = tiny_config(), tiny_config(connector="linear")
    for each in (config, linear):
        each.visual_abstractor_config.intermediate_size = 77
    assert fit_to_weights(config, "somebody/an-owl") is config
    assert fit_to_weights(config, None) is config
    assert config.visual_abstractor_config.intermediate_size == 77
    assert fit_to_weights(linear, ours).visual_abstractor_config.intermediate_size == 77
    assert fit_to_weights(config, ours).visual_abstractor_config.intermediate_size == 32


# Nothing is run


class Evil:
    """What pickle would run as it loads."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("kwargs", [{}, {"weights_only": False}], ids=["as is", "asked to"])
def test_code_in_a_weight_file_is_refused_and_not_run(originals: Path, tmp_path: Path, kwargs: dict) -> None:
    weights = read_tensors(originals / "pytorch_model.bin")
    torch.save({**weights, "query_tokens": Evil(tmp_path / "it-ran")}, originals / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds Python code|would run code"):
        load(originals, **kwargs)
    assert not (tmp_path / "it-ran").exists()


def test_a_file_without_code_is_not_read_as_if_it_had_some(ours: Path) -> None:
    with pytest.raises(ValueError, match="weights_only=False would run code from a weight file"):
        load(ours, weights_only=False)


def test_code_is_refused_whatever_the_connector(originals: Path, tmp_path: Path) -> None:
    tiny_config(connector="linear").save_pretrained(originals)
    torch.save(
        {"query_tokens": Evil(tmp_path / "it-ran")}, originals / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    with pytest.raises(ValueError, match="holds Python code"):
        load(originals)
    assert not (tmp_path / "it-ran").exists()


def test_a_damaged_weight_file_is_named(originals: Path) -> None:
    file = originals / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: not readable as weights, cut short"):
        load(originals)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: not readable as weights, cut short"):
        load(originals)


def test_a_damaged_safetensors_file_is_named(ours: Path) -> None:
    file = ours / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors: not readable as weights, cut short"):
        load(ours)


def test_max_length_of_our_layout_is_transformers_own(ours: Path) -> None:
    (ours / "generation_config.json").write_text(json.dumps({"max_length": 100}))
    settings = load(ours).generation_config
    assert (settings.max_new_tokens, settings.max_length) == (None, 100)


def test_a_config_that_is_given_is_left_as_it_is(ours: Path) -> None:
    """The weights' inner width is taken, in a copy."""
    config = MplugOwlConfig.from_pretrained(ours)
    config.visual_abstractor_config.intermediate_size = 48
    model = MplugOwlForConditionalGeneration.from_pretrained(ours, config=config)
    assert model.config.visual_abstractor_config.intermediate_size == 32
    assert config.visual_abstractor_config.intermediate_size == 48
