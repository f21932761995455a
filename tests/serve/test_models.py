"""Which folders are opened for strangers, and adapters of one base beside each other."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.modeling_utils import PreTrainedModel

from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.errors import UserError
from mplug_owl.model.adapter import known_warnings
from mplug_owl.model.load import load
from mplug_owl.model.quantised import QuantisedLinear
from mplug_owl.model.small_weights import PackedLinear
from mplug_owl.model.template_additions import _ADDED
from mplug_owl.serve.models import named, open_models, refuse_unsafe
from tests.chat.test_decode import made, talks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two adapters that learned different things."""
    root = tmp_path_factory.mktemp("models")
    owl = made("llama")
    owl.model.save_pretrained(root / "base")
    owl.processor.save_pretrained(root / "base")
    for number, name in enumerate(("one", "two"), 1):
        torch.manual_seed(number)
        base = load(root / "base", "cpu").model
        with known_warnings():
            learner = get_peft_model(base, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
        for weight_name, weight in learner.named_parameters():
            if "lora_" in weight_name:
                torch.nn.init.normal_(weight)
        settings = learner.peft_config["default"]
        settings.base_model_name_or_path = "../base"
        learner.save_pretrained(str(root / name), save_embedding_layers=False)
    return root


def weights(model: PreTrainedModel) -> dict[str, int]:
    return {name: weight.data_ptr() for name, weight in model.named_parameters()}


def test_adapters_of_one_base_hold_its_weights_once(folder: Path) -> None:
    """What an adapter changes is its own, everything else is the base's; each answers as `owl chat` does with it alone."""
    paths = {name: str(folder / name) for name in ("base", "one", "two")}
    owls = open_models(paths, "cpu", "auto")
    base, one, two = (weights(owl.model) for owl in owls.values())
    changed = {name for name in base if base[name] != one[name]}
    assert changed == {name for name in base if base[name] != two[name]}
    assert changed == {name for name in base if "language_model" in name and "q_proj" in name}
    said = []
    for name, owl in owls.items():
        said.append(OwlChatModel(owl).answers(talks(4), Decoding(max_new_tokens=8)))
        assert said[-1] == OwlChatModel(load(paths[name], "cpu")).answers(talks(4), Decoding(max_new_tokens=8))
    assert said[0] != said[1] != said[2]


def test_weights_that_are_laid_out_for_a_cpu_are_held_once_too(folder: Path) -> None:
    owls = open_models({name: str(folder / name) for name in ("base", "one")}, "cpu", "bfloat16")
    base, one = (dict(owl.model.named_modules()) for owl in owls.values())
    packed = {name for name, module in base.items() if isinstance(module, PackedLinear)}
    if not packed:
        pytest.skip("this CPU multiplies no bf16 by oneDNN")
    own = {name for name in packed if base[name] is not one[name]}
    assert own == {name for name in packed if "language_model" in name and "q_proj" in name}


def test_a_head_that_is_the_embedding_is_laid_out_too() -> None:
    one, two = (
        dict(owl.model.named_modules()) for owl in open_models({"a": "owl-tiny", "b": "owl-tiny"}, "cpu", "auto").values()
    )
    packed = {name: module for name, module in one.items() if isinstance(module, PackedLinear)}
    if not packed:
        pytest.skip("this CPU multiplies no bf16 by oneDNN")
    assert "lm_head" in packed
    assert all(two[name] is module for name, module in packed.items())


def test_quantised_models_are_those_of_owl_chat(folder: Path) -> None:
    owls = open_models({"base": str(folder / "base")}, "cpu", "auto", "int8")
    assert any(isinstance(module, QuantisedLinear) for module in owls["base"].model.modules())
    with pytest.raises(UserError, match="give one of them"):
        open_models({"base": str(folder / "base")}, "cpu", "int8", "nf4")


def test_names() -> None:
    assert named(["owl-tiny", "mine=runs/a/", "b/c/"]) == {"owl-tiny": "owl-tiny", "mine": "runs/a/", "c": "b/c/"}
    for models in (["a/x", "b/x"], ["=a"], ["a="]):
        with pytest.raises(UserError):
            named(models)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("pytorch_model.bin", "", "safetensors alone"),
        ("adapter_model.bin", "", "safetensors alone"),
        ("a.pt", "", "safetensors alone"),
        ("config.json", json.dumps({"auto_map": {"AutoModel": "evil.Model"}}), "auto_map"),
        ("config.json", json.dumps({"text_config": [{"auto_map": {}}]}), "auto_map"),
        ("tokenizer_config.json", json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}}), "auto_map"),
        ("video_preprocessor_config.json", json.dumps({"auto_map": 1}), "auto_map"),
        ("generation_config.json", "{", "damaged"),
        ("processor_config.json", "[" * 100_000, "damaged"),
    ],
)
def test_a_folder_that_may_bring_code_is_not_opened(tmp_path: Path, file: str, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=words):
        refuse_unsafe(tmp_path)
    with pytest.raises(UserError, match=words):
        open_models({"evil": str(tmp_path)}, "cpu", "auto")


def test_an_adapter_whose_base_may_bring_code_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base"}))
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../adapter"}))
    for name in ("adapter", "second"):
        with pytest.raises(UserError, match="safetensors alone"):
            open_models({"evil": str(tmp_path / name)}, "cpu", "auto")


def test_a_template_of_a_folder_runs_in_a_sandbox(folder: Path, tmp_path: Path) -> None:
    """CVE-2026-5760: a chat template that reaches for the system is refused when the server begins, with nothing run."""
    shutil.copytree(folder / "base", tmp_path / "evil")
    file, proof = tmp_path / "evil" / "chat_template.jinja", tmp_path / "proof"
    reaches = "{{ cycler.__init__.__globals__.os.mkdir('" + str(proof) + "') }}"
    for template in (reaches, _ADDED + reaches, file.read_text() + reaches):
        file.write_text(template)
        with pytest.raises(UserError):
            open_models({"evil": str(tmp_path / "evil")}, "cpu", "auto")
    assert not proof.exists()
