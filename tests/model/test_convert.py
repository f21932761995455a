"""`owl convert`: from the original's layout to ours and back, adapters merged, nothing half-written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.errors import UserError
from mplug_owl.model.build import Modules, build
from mplug_owl.model.checkpoints import original_name, our_name, read_tensors
from mplug_owl.model.convert import convert
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.template import with_pictures
from tests.conftest import SHARED
from tests.golden import original
from tests.model.families import BY_NAME, tokenizer_of
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor

Checkpoint = Callable[..., Path]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Save a tiny owl in our layout."""

    def saved(language: str = "llama", **parts: str) -> Path:
        owl = tiny_owl(tiny_config(language=language, **parts))
        folder = tmp_path / f"owl-{language}"
        owl.save_pretrained(folder)
        tiny_processor(owl).save_pretrained(folder)
        return folder

    return saved


def answer(folder: Path) -> torch.Tensor:
    """Logits of the owl in a folder, with its own processor, to one question about one picture."""
    owl = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = AutoProcessor.from_pretrained(folder)(text="Human: <image>\nHuman: What?\nAI: ", images=[picture()])
    with torch.no_grad():
        return owl(**inputs).logits


def original_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = read_tensors(folder / "pytorch_model.bin")
    return {name: tensor for name, tensor in weights.items() if not name.endswith("rotary_emb.inv_freq")}


@pytest.fixture(params=["our own", "owl-llama-tiny", "owl-bloom-64q"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint in the original's layout: one that tests make, and the original's own where they are here."""
    if request.param == "our own":
        return original.write(tmp_path / "original")
    if not (folder := SHARED / "parity" / request.param).is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def test_the_originals_checkpoint_there_and_back_is_bit_equal(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", original=True)

    assert torch.equal(answer(tmp_path / "ours"), answer(source))
    assert torch.equal(answer(tmp_path / "back"), answer(source))
    assert {file.name for file in (tmp_path / "back").iterdir()} == {file.name for file in source.iterdir()}
    before, after = original_weights(source), original_weights(tmp_path / "back")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_originals_configs_come_back(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "back", original=True)

    def read(folder: Path, file: str) -> dict:
        return json.loads((folder / file).read_text("utf-8"))

    before, after = read(source, "config.json"), read(tmp_path / "back", "config.json")
    for part in ("vision_config", "visual_abstractor_config", "text_config"):
        # transformers 5 has dropped the settings of generation from configs; 4.28 fills in the same defaults.
        kept = before[part].keys() & after[part].keys() - {"torch_dtype", "transformers_version", "return_dict"}
        assert {key: after[part][key] for key in kept} == {key: before[part][key] for key in kept}
        sizes = ("hidden_size", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "layer_norm_eps", "vocab_size")
        assert {key for key in sizes if key in before[part]} <= kept
    assert after["model_type"] == "mplug-owl"
    assert after["num_query_tokens"] == before["num_query_tokens"]
    assert read(tmp_path / "back", "preprocessor_config.json") == read(source, "preprocessor_config.json")
    assert read(tmp_path / "back", "generation_config.json")["max_length"] == 512
    if (source / "tokenizer.json").is_file():
        assert read(tmp_path / "back", "tokenizer.json") == read(source, "tokenizer.json")
    else:
        assert (tmp_path / "back" / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_every_name_of_ours_has_one_of_the_originals_and_back(language: str) -> None:
    for name in tiny_owl(tiny_config(language=language)).state_dict():
        assert our_name(original_name(name, language)) == name
        assert our_name(name) == name


def test_a_bloom_owl_in_the_originals_layout_has_blooms_tokenizer(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("bloom")
    convert(source, tmp_path / "out", original=True)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text("utf-8"))
    assert (settings["tokenizer_class"], settings["padding_side"]) == ("BloomTokenizerFast", "left")
    assert (settings["add_prefix_space"], settings["clean_up_tokenization_spaces"]) == (False, False)
    assert json.loads((tmp_path / "out" / "special_tokens_map.json").read_text("utf-8"))["eos_token"] == "</s>"
    assert "ignore_merges" not in json.loads((tmp_path / "out" / "tokenizer.json").read_text("utf-8"))["model"]
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert torch.equal(answer(tmp_path / "out"), answer(source))


def test_the_originals_layout_holds_the_originals_modules_only(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vision encoder and the abstractor, not clip_vision_model and abstractor"):
        convert(checkpoint(vision="clip"), tmp_path / "out", original=True)
    config = tiny_config()
    config.vision_config.stem_channels, config.vision_config.patch_size = (8,), 14
    owl = tiny_owl(config)
    owl.save_pretrained(tmp_path / "stem")
    tiny_processor(owl).save_pretrained(tmp_path / "stem")
    with pytest.raises(UserError, match=r"vision encoder has no stem, stem_channels=\[8\]"):
        convert(tmp_path / "stem", tmp_path / "out", original=True)
    with pytest.raises(ValueError, match="llama or bloom language models, not opt"):
        convert(checkpoint("opt"), tmp_path / "out", original=True)
    with pytest.raises(ValueError, match="LLaMA has no num_key_value_heads=1"):
        convert(checkpoint("llama"), tmp_path / "out", original=True)
    assert not (tmp_path / "out").exists()


def test_the_originals_layout_has_no_room_for_a_chat_format(tmp_path: Path) -> None:
    tokenizer, config = tokenizer_of(BY_NAME["llama2"]), tiny_config()
    # LLaMA as the original's can be, so that nothing but the format is in the way.
    config.text_config.num_key_value_heads = config.text_config.num_attention_heads
    config.text_config.vocab_size = config.image_token_id = len(tokenizer)
    owl = tiny_owl(config)
    owl.save_pretrained(tmp_path / "owl")
    template = with_pictures(tokenizer.chat_template, tokenizer)
    for chosen, name in ((template, "own"), (None, "originals")):
        MplugOwlProcessor.for_model(owl, tokenizer, None, chosen).save_pretrained(tmp_path / "owl")
        if chosen is None:
            convert(tmp_path / "owl", tmp_path / name, original=True)
        else:
            with pytest.raises(UserError, match=r"--original: this owl is spoken to in its language model's own chat format"):
                convert(tmp_path / "owl", tmp_path / name, original=True)
            convert(tmp_path / "owl", tmp_path / "ours")
            assert AutoProcessor.from_pretrained(tmp_path / "ours").chat_format is not None
    assert not (tmp_path / "own").exists()
    assert (tmp_path / "originals" / "pytorch_model.bin").is_file()


def test_a_folder_with_something_in_it_is_left_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"mine: already there"):
        convert(checkpoint(), target)
    assert [file.name for file in target.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    source = checkpoint()
    convert(source, tmp_path / "new")
    assert torch.equal(answer(tmp_path / "new"), answer(source))


def test_a_failure_leaves_nothing_behind(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    source = checkpoint()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("mplug_owl.model.processor.MplugOwlProcessor.save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        convert(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_source_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing: no such folder"):
        convert(tmp_path / "nothing", tmp_path / "out")


def adapt(owl: MplugOwlForConditionalGeneration, folder: Path, **settings: object) -> torch.nn.Module:
    """Give an owl an adapter of random weights and save it."""
    lora = LoraConfig(**{"r": 2, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q_proj|v_proj)", **settings})
    adapted = get_peft_model(owl, lora).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    adapted.save_pretrained(folder)
    return adapted


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["abstractor"]}, {"use_rslora": True}], ids=str)
def test_an_adapter_of_ours_is_merged(checkpoint: Checkpoint, tmp_path: Path, settings: dict) -> None:
    source = checkpoint()
    owl = MplugOwlForConditionalGeneration.from_pretrained(source)
    adapt(owl, tmp_path / "adapter", **settings)
    inputs = AutoProcessor.from_pretrained(source)(text="<image>What?", images=[picture()])

    # peft finds its way by itself, too.
    wrapped = PeftModel.from_pretrained(MplugOwlForConditionalGeneration.from_pretrained(source), tmp_path / "adapter").eval()
    convert(source, tmp_path / "merged", adapter=tmp_path / "adapter")
    merged = MplugOwlForConditionalGeneration.from_pretrained(tmp_path / "merged")
    theirs = wrapped(**inputs).logits
    assert not torch.allclose(theirs, MplugOwlForConditionalGeneration.from_pretrained(source)(**inputs).logits, atol=1e-2)
    torch.testing.assert_close(merged(**inputs).logits, theirs, atol=2e-6, rtol=0)  # worst measured 4.2e-7


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A checkpoint in the original's layout that tests make."""
    return original.write(tmp_path / "llama")


@pytest.fixture
def originals_adapter(llama: Path, tmp_path: Path) -> Path:
    """An adapter as peft 0.3 saved it beside the original's stage 2: the original's names, a pickle of tensors."""
    weights = read_tensors(llama / "pytorch_model.bin")
    torch.manual_seed(3)
    adapter = {}
    for name, weight in weights.items():
        if name.startswith("language_model") and name.endswith(("q_proj.weight", "v_proj.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            adapter[f"{stem}.lora_A.weight"] = torch.randn(2, weight.shape[1])
            adapter[f"{stem}.lora_B.weight"] = torch.randn(weight.shape[0], 2) / 10
    folder = tmp_path / "stage2"
    folder.mkdir()
    torch.save(adapter, folder / "adapter_model.bin")
    settings = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 2,
        "target_modules": r".*language_model.*\.(q_proj|v_proj)",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def expected_merge(weights: dict[str, torch.Tensor], adapter: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """W + alpha / r * B A, written out."""
    merged = dict(weights)
    for name, a in adapter.items():
        if name.endswith("lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            key = f"{stem.removeprefix('base_model.model.')}.weight"
            merged[key] = merged[key] + 32 / 2 * adapter[f"{stem}.lora_B.weight"] @ a
    return merged


@pytest.mark.filterwarnings("error")  # of peft's own too, for a user would read them
def test_an_adapter_of_the_originals_is_merged(llama: Path, tmp_path: Path, originals_adapter: Path) -> None:
    convert(llama, tmp_path / "out", original=True, adapter=originals_adapter)
    expected = expected_merge(original_weights(llama), read_tensors(originals_adapter / "adapter_model.bin"))
    merged = original_weights(tmp_path / "out")
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, atol=1e-6, rtol=0)  # worst measured 0


def test_peft_loads_an_adapter_of_the_originals(llama: Path, tmp_path: Path, originals_adapter: Path) -> None:
    convert(llama, tmp_path / "out", adapter=originals_adapter)
    wrapped = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(llama), originals_adapter)
    inputs = AutoProcessor.from_pretrained(llama)(text="What?")
    with torch.no_grad():
        merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")(**inputs).logits
        torch.testing.assert_close(wrapped.eval()(**inputs).logits, merged, atol=2e-5, rtol=0)  # worst measured 4.8e-6


def test_a_training_checkpoint_of_the_originals_stage_2_is_merged(llama: Path, tmp_path: Path, originals_adapter: Path) -> None:
    """Its Trainer saved all weights under peft's names; loaded as a model they are ignored in silence there."""
    adapter = read_tensors(originals_adapter / "adapter_model.bin")
    everything = {f"base_model.model.{name}": weight for name, weight in read_tensors(llama / "pytorch_model.bin").items()}
    everything |= {name.replace(".weight", ".default.weight"): weight for name, weight in adapter.items()}
    torch.save(everything, originals_adapter / "pytorch_model.bin")
    (originals_adapter / "adapter_model.bin").unlink()

    convert(llama, tmp_path / "out", original=True, adapter=originals_adapter)
    expected = expected_merge(original_weights(llama), adapter)
    merged = original_weights(tmp_path / "out")
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, atol=1e-6, rtol=0)

    (originals_adapter / "adapter_config.json").unlink()  # the original's Trainer writes none
    convert(llama, tmp_path / "alone", original=True, adapter=originals_adapter)
    alone = original_weights(tmp_path / "alone")
    assert all(torch.equal(alone[name], weight) for name, weight in merged.items())


def test_an_adapter_must_fit_to_the_last_weight(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, adapter = checkpoint(), tmp_path / "adapter"
    adapt(MplugOwlForConditionalGeneration.from_pretrained(source), adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    lost = weights.popitem()
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter: not an adapter of this owl; 1 weights missing"):
        convert(source, tmp_path / "out", adapter=adapter)

    save_file(
        {**weights, lost[0]: lost[1], "base_model.model.stranger": lost[1].clone()}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(ValueError, match=r"1 weights unexpected: base_model\.model\.stranger"):
        convert(source, tmp_path / "out", adapter=adapter)

    save_file({**weights, lost[0]: lost[1][:, :1].clone()}, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"1 weights misshapen"):
        convert(source, tmp_path / "out", adapter=adapter)
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_code_in_it_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "it-ran"),)

    source, adapter = checkpoint(), tmp_path / "adapter"
    adapt(MplugOwlForConditionalGeneration.from_pretrained(source), adapter)
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weight": Evil()}, adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match="holds Python code"):
        convert(source, tmp_path / "out", adapter=adapter)
    assert not (tmp_path / "it-ran").exists()


def test_an_adapter_that_is_none_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"elsewhere: no adapter_config\.json"):
        convert(checkpoint(), tmp_path / "out", adapter=tmp_path / "elsewhere")


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_module_is_taken_out_and_joined_to_another(family: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Plain transformers opens it, and an owl of two taken-out modules sees and speaks as the first one did."""
    source = checkpoint(family)
    settings = json.loads((source / "generation_config.json").read_text("utf-8"))
    (source / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [2, 7]}))
    for module in ("vision", "language"):
        convert(source, tmp_path / module, module=module)
    whole = AutoModelForImageTextToText.from_pretrained(source)
    ids, pixels = torch.randint(3, 90, (1, 7)), torch.randn(1, 3, 28, 28)
    parts = Modules(lambda: tiny_config(language=family), vision=str(tmp_path / "vision"), language=str(tmp_path / "language"))
    joined = build(parts, [], seed=0).model.eval()
    language = AutoModelForCausalLM.from_pretrained(tmp_path / "language")
    assert language.generation_config.eos_token_id == [2, 7]
    with torch.no_grad():
        assert torch.equal(language(ids).logits, whole(input_ids=ids).logits)
        assert torch.equal(joined(input_ids=ids).logits, whole(input_ids=ids).logits)
        seen = (owl.model.vision_tower(pixels).last_hidden_state for owl in (joined, whole))
        assert torch.equal(*seen)


def test_a_module_in_bf16_is_half_as_large(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, bf16 in (("full", False), ("half", True)):
        convert(checkpoint(), tmp_path / name, module="language", bf16=bf16)
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    assert all(torch.equal(half[name], full[name].bfloat16()) for name in full)


def test_the_originals_layout_in_bf16_says_so(llama: Path, tmp_path: Path) -> None:
    convert(llama, tmp_path / "half", original=True, bf16=True)
    values = json.loads((tmp_path / "half" / "config.json").read_text("utf-8"))
    parts = (values, values["vision_config"], values["visual_abstractor_config"], values["text_config"])
    assert {part["torch_dtype"] for part in parts} == {"bfloat16"}


def test_a_module_has_no_layout_of_the_originals(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--original and --module: a module alone has no layout of the original's"):
        convert(checkpoint(), tmp_path / "vision", original=True, module="vision")
    assert not (tmp_path / "vision").exists()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Model (has|with) .tie_word_embeddings=True", "ignore:Setting .save_embedding_layers")
@pytest.mark.parametrize("settings", [{"target_modules": ["lm_head", "q_proj"]}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_a_head_that_is_changed_alone_is_no_embedding_table_any_more(tmp_path: Path, settings: dict) -> None:
    """Merged into the one tensor that both are, what the head has learned would change every word that is read."""
    config = tiny_config()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    source, inputs = tmp_path / "owl", {"input_ids": torch.tensor([[1, 60, 70, 80]])}
    owl = tiny_owl(config)
    owl.save_pretrained(source)
    tiny_processor(owl).save_pretrained(source)
    learned = adapt(MplugOwlForConditionalGeneration.from_pretrained(source), tmp_path / "adapter", **settings)
    convert(source, tmp_path / "merged", adapter=tmp_path / "adapter")
    merged = MplugOwlForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(**inputs).logits, learned(**inputs).logits, atol=1e-5, rtol=0)  # worst measured 1e-6
    assert torch.equal(merged.get_input_embeddings().weight, owl.get_input_embeddings().weight)
