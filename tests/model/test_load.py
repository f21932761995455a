"""An owl from where it lies: every kind of folder, any device, nothing said on the way, and damage named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.errors import UserError
from mplug_owl.model.adapter import merge
from mplug_owl.model.load import load, load_processor
from tests.model.test_convert import adapt
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


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


def rebase(adapter: Path, base: str) -> None:
    """Have an adapter name another base."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def test_an_adapter_may_stand_on_an_adapter_but_not_on_itself(saved: Path, tmp_path: Path) -> None:
    for name, base in (("one", saved), ("two", tmp_path / "one")):
        adapt(load(base).model, tmp_path / name)
    rebase(tmp_path / "two", "../one")
    assert load_processor(tmp_path / "two").num_image_tokens == load(tmp_path / "two").processor.num_image_tokens
    rebase(tmp_path / "one", "../two")
    for opened in (load, load_processor):
        with pytest.raises(UserError, match=r"one/adapter_config\.json: its base_model_name_or_path leads back to .*two"):
            opened(tmp_path / "two")


def test_an_adapter_that_cannot_be_used_is_named(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    adapt(load(saved).model, folder, modules_to_save=["abstractor"])
    settings, weights = (folder / "adapter_config.json").read_text(), load_file(folder / "adapter_model.safetensors")

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            merge(load(saved).model, folder)

    for damaged in (settings[:-9], "[]", settings.replace('"LORA"', '"LORE"')):
        (folder / "adapter_config.json").write_text(damaged)
        refused(r"adapter/adapter_config\.json: damaged; expected the JSON object that peft saves")
    values = json.loads(settings)
    (folder / "adapter_config.json").write_text(json.dumps(values | {"target_modules": ["c_attn"], "modules_to_save": None}))
    refused("adapter: not an adapter of this owl; .*c_attn")
    (folder / "adapter_config.json").write_text(json.dumps(values | {"modules_to_save": None}))
    for name in weights:
        if name.endswith("abstractor.query_tokens"):
            weights[name] = torch.ones(1, 3, 3)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    refused("adapter: not an adapter of this owl; .*abstractor.query_tokens")


def test_the_best_device_is_taken_and_any_can_be_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu", "meta", torch.device("meta")):
        assert load(saved, device=name).model.device == torch.device(name)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("meta"))
    assert load(saved).model.device.type == "meta"
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert load(saved).model.device.type == "cpu"
    with pytest.raises(UserError, match="device warp: not here; expected cpu, cuda, cuda:0 or mps"):
        load(saved, device="warp")


def test_weights_come_in_the_precision_that_is_asked_for(saved: Path) -> None:
    assert load(saved, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load(saved).model.dtype == torch.float32


def test_it_says_nothing_and_leaves_the_users_own_choice(tmp_path: Path) -> None:
    """No bar and no hint, from loading to the first words; what the user's own models show stays as it was."""
    program = """
from transformers.utils import logging
from mplug_owl.chat import Chat
from mplug_owl.model.load import load

logging.set_verbosity_info()
chat = Chat(load("owl-tiny"))
assert logging.is_progress_bar_enabled()
assert logging.get_verbosity() == logging.INFO
logging.set_verbosity_warning()
print(chat.ask("What is in the picture?"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


# What is no owl


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone", "no such folder; expected an owl's folder, a finished run, or a hub id OWNER/NAME"),
        ("empty", "no config.json in it"),
    ],
)
def test_what_is_no_owl_is_named(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"{path}: {message}"):
        load(tmp_path / path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(saved: Path, name: str) -> None:
    (saved / "model" / name).write_text(POINTER)
    for opened in (load, load_processor):
        with pytest.raises(UserError, match=rf"{name}: a git-lfs pointer, not the file; run git lfs pull in "):
            opened(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("left", [0, 30, -5])
def test_a_file_that_was_cut_is_named(saved: Path, name: str, left: int) -> None:
    file = saved / "model" / name
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"model.*(cannot be read|not readable)"):
        load(saved)


@pytest.mark.parametrize(
    ("field", "value"), [("num_query_tokens", "many"), ("text_config", 3), ("dtype", "x"), ("visual_abstractor_config", [1])]
)
def test_a_config_with_other_types_is_named(saved: Path, field: str, value: object) -> None:
    file = saved / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(UserError, match=r"its config\.json cannot be read; "):
        load(saved)


def test_a_missing_tokenizer_is_named(saved: Path, originals: Path) -> None:
    """transformers would make up one of three entries: empty answers, and a training that learns the end token alone."""
    (saved / "model" / "tokenizer.json").unlink()
    for opened in (load, load_processor):
        with pytest.raises(UserError, match=r"model: no tokenizer\.model in it; copy the tokenizer's files from where"):
            opened(saved)
        with pytest.raises(UserError, match=r"originals: no tokenizer\.model in it"):
            opened(originals)


@pytest.fixture
def originals(saved: Path, tmp_path: Path) -> Path:
    """The same owl with none of our own files."""
    shutil.copytree(
        saved / "model", tmp_path / "originals", ignore=shutil.ignore_patterns("processor*", "tokenizer*", "*.jinja")
    )
    return tmp_path / "originals"


def test_another_models_tokenizer_is_named(saved: Path) -> None:
    file = saved / "model" / "config.json"
    values = json.loads(file.read_text())
    values["text_config"]["vocab_size"] = values["image_token_id"] = 32_000
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match="its tokenizer has 259 entries and the model a vocabulary of 32000; expected the tok"):
        load_processor(saved)


def test_a_pictures_id_that_is_a_tokens_is_named(saved: Path) -> None:
    processor = load_processor(saved)
    processor.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    processor.tokenizer.save_pretrained(saved / "model")
    with pytest.raises(
        UserError, match=r"image_token_id is 259, which is '\[PAD\]' in the tokenizer; .* write 260 into config"
    ):
        load(saved)
    file = saved / "model" / "config.json"
    file.write_text(file.read_text().replace('"image_token_id": 259', '"image_token_id": 260'))
    assert load(saved).processor.image_token_id == 260


def test_a_token_above_the_table_is_named(saved: Path) -> None:
    processor = load_processor(saved)
    processor.tokenizer.add_tokens(["[NEW]", "[PAD]"])
    processor.tokenizer.save_pretrained(saved / "model")
    file = saved / "model" / "config.json"
    file.write_text(file.read_text().replace('"image_token_id": 259', '"image_token_id": 261'))
    with pytest.raises(UserError, match=r"its tokenizer has '\[NEW\]', above the model's vocabulary of 259"):
        load(saved)


def test_two_ids_for_pictures_are_named(saved: Path) -> None:
    file = saved / "model" / "config.json"
    file.write_text(file.read_text().replace('"image_token_id": 259', '"image_token_id": 300'))
    with pytest.raises(UserError, match=r"image_token_id is 259 in processor_config\.json and 300 in config\.json"):
        load(saved)


def test_a_training_checkpoint_of_peft_is_named(saved: Path, tmp_path: Path) -> None:
    """Its names begin with base_model.model.; with a config beside it or without, it is merged into its base."""
    weights = {f"base_model.model.{name}": weight for name, weight in load_file(saved / "model" / "model.safetensors").items()}
    save_file(weights, saved / "model" / "model.safetensors", metadata={"format": "pt"})
    advice = "a training checkpoint of the original's stage 2, .*: owl convert BASE NEW --adapter "
    with pytest.raises(UserError, match=advice):
        load(saved)
    (saved / "model" / "config.json").unlink()
    with pytest.raises(UserError, match=advice):
        load(saved / "model")


@pytest.mark.parametrize("dtype", ["bf16", "relu", "int32", torch.int8])
def test_a_precision_that_is_none_is_named(saved: Path, dtype: str | torch.dtype) -> None:
    with pytest.raises(UserError, match=f"dtype {dtype}: expected float32, bfloat16 or float16"):
        load(saved, dtype=dtype)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_damaged_generation_settings_are_named(saved: Path, text: str) -> None:
    """transformers would take its own in their place, and an answer would end where others end."""
    (saved / "model" / "generation_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"generation_config\.json: damaged; expected a JSON object, or no such file"):
        load(saved)
    (saved / "model" / "generation_config.json").unlink()
    assert load(saved).model.generation_config.eos_token_id == 2


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["null", "[1]", "\xff"])
def test_settings_that_are_no_object_are_named(saved: Path, name: str, text: str) -> None:
    (saved / "model" / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"model: its {name} cannot be read"):
        load(saved)


def test_a_model_may_lie_in_a_folder_of_a_folder(saved: Path) -> None:
    inner = MplugOwlForConditionalGeneration.from_pretrained(saved, subfolder="model")
    assert torch.equal(inner.lm_head.weight, load(saved).model.lm_head.weight)
