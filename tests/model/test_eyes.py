"""Eyes taken from an owl and given back to its language model make the same owl."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from mplug_owl import Conversation, load
from mplug_owl.errors import UserError
from mplug_owl.model.build import Modules, build
from mplug_owl.model.convert import convert
from mplug_owl.model.eyes import WEIGHTS, Base, give_eyes, take_eyes
from mplug_owl.model.load import Owl, load_processor
from mplug_owl.model.locate import EYES_BASE
from tests.tiny import LANGUAGES, picture, shaken, tiny_config, tiny_tokenizer

SHOWN = Conversation(()).said("user", "Hm")


@pytest.fixture
def language(tmp_path: Path) -> Path:
    """A small language model's folder."""
    torch.manual_seed(3)
    folder = tmp_path / "language"
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LANGUAGES["llama"])).to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def logits(owl: Owl) -> torch.Tensor:
    """What it makes of a picture and a word."""
    from mplug_owl.conversation import Message, Picture

    talk = Conversation((Message("user", (Picture(picture()), "Hm")),))
    batch = owl.processor.batch([owl.processor.encode(talk, reply=True)])
    with torch.no_grad():
        return owl.model(**batch).logits.float()


def trained(language: Path, folder: Path) -> Path:
    """An owl whose eyes have learned something, saved in bf16 so that nothing is rounded later."""
    owl = build(Modules(tiny_config, language=str(language)), (), 0)
    shaken(owl.model.model.vision_tower)
    shaken(owl.model.model.abstractor)
    for parameter in owl.model.parameters():
        parameter.data = parameter.data.bfloat16()
    owl.model.save_pretrained(folder)
    owl.processor.save_pretrained(folder)
    return folder


def adapted(folder: Path, out: Path) -> tuple[Path, torch.Tensor]:
    """An adapter for the owl in `folder`, and what the owl says with it."""
    owl = load(folder, device="cpu", dtype="float32")
    learner = get_peft_model(owl.model, LoraConfig(r=2, lora_alpha=4, target_modules=r".*language_model.*q_proj"))
    for name, weight in learner.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn_like(weight).bfloat16().float()
    learner.save_pretrained(str(out), save_embedding_layers=False)
    learner.merge_and_unload()
    return out, logits(Owl(owl.model.eval(), owl.processor))


def test_eyes_and_base_are_the_owl_again(tmp_path: Path, language: Path) -> None:
    folder = trained(language, tmp_path / "owl")
    take_eyes(folder, tmp_path / "eyes", Base(str(language)))
    assert torch.equal(logits(give_eyes(tmp_path / "eyes")), logits(load(folder, device="cpu")))
    assert torch.equal(logits(load(tmp_path / "eyes", device="cpu")), logits(load(folder, device="cpu")))
    assert (tmp_path / "eyes" / WEIGHTS).stat().st_size < (folder / "model.safetensors").stat().st_size


def test_what_lora_learned_comes_along(tmp_path: Path, language: Path) -> None:
    folder = trained(language, tmp_path / "owl")
    adapter, expected = adapted(folder, tmp_path / "adapter")
    take_eyes(folder, tmp_path / "eyes", Base("nobody/nothing"), adapter)
    owl = give_eyes(tmp_path / "eyes", str(language), dtype="float32")
    assert owl.model.dtype == torch.float32
    torch.testing.assert_close(logits(owl), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, logits(load(folder, device="cpu")), atol=1e-2)


def test_an_adapter_on_them_opens_and_keeps_theirs(tmp_path: Path, language: Path) -> None:
    """Quantised too: the eyes' own adapter is in the weights, the second one stays beside them."""
    folder = trained(language, tmp_path / "owl")
    take_eyes(folder, tmp_path / "eyes", Base(str(language)), adapted(folder, tmp_path / "adapter")[0])
    second, expected = adapted(tmp_path / "eyes", tmp_path / "second")
    config = json.loads((second / "adapter_config.json").read_text("utf-8"))
    (second / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "../eyes"}), "utf-8")
    torch.testing.assert_close(logits(load(second, "cpu", "float32")), expected, atol=1e-5, rtol=1e-5)
    rounded, without = (load(one, "cpu", "float32", quantize="int8") for one in (second, tmp_path / "owl"))
    assert (logits(rounded) - expected).norm() < 0.05 * (logits(without) - expected).norm()
    assert load_processor(second).encode(SHOWN).ids == load_processor(tmp_path / "eyes").encode(SHOWN).ids


def test_an_owl_of_them_can_be_written_out(tmp_path: Path, language: Path) -> None:
    take_eyes(trained(language, tmp_path / "owl"), tmp_path / "eyes", Base(str(language)))
    convert(tmp_path / "eyes", tmp_path / "whole", bf16=True)
    assert torch.equal(logits(load(tmp_path / "whole", device="cpu")), logits(load(tmp_path / "owl", device="cpu")))
    assert load_processor(tmp_path / "eyes").encode(SHOWN).ids == load_processor(tmp_path / "whole").encode(SHOWN).ids


@pytest.mark.parametrize("prompt", ["owl", "auto"])
def test_they_remember_how_pictures_and_talks_are_encoded(tmp_path: Path, language: Path, prompt: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    tokenizer.save_pretrained(language)
    owl = build(Modules(tiny_config, language=str(language), prompt=prompt), (), 0)
    owl.processor.image_processor.image_std = [0.25] * 3
    owl.model.save_pretrained(tmp_path / "owl")
    owl.processor.save_pretrained(tmp_path / "owl")
    take_eyes(tmp_path / "owl", tmp_path / "eyes", Base(str(language)))
    again = load_processor(tmp_path / "eyes")
    assert again.chat_template == owl.processor.chat_template
    assert again.encode(SHOWN).ids == owl.processor.encode(SHOWN).ids
    pixels = [each.image_processor([picture()])["pixel_values"] for each in (again, owl.processor)]
    assert torch.equal(*pixels)


def test_a_seed_that_somebody_has_set_stays(tmp_path: Path, language: Path) -> None:
    take_eyes(trained(language, tmp_path / "owl"), tmp_path / "eyes", Base(str(language)))
    torch.manual_seed(7)
    first = torch.rand(3)
    torch.manual_seed(7)
    load(tmp_path / "eyes", device="cpu")
    assert torch.initial_seed() == 7
    assert torch.equal(torch.rand(3), first)


def test_other_weights_are_refused(tmp_path: Path, language: Path) -> None:
    take_eyes(trained(language, tmp_path / "owl"), tmp_path / "eyes", Base(str(language)))
    with pytest.raises(UserError, match="already there"):
        take_eyes(tmp_path / "owl", tmp_path / "eyes", Base(str(language)))
    config = json.loads((tmp_path / "eyes" / "config.json").read_text("utf-8"))
    (tmp_path / "eyes" / "config.json").write_text(json.dumps({**config, "num_query_tokens": 3}), encoding="utf-8")
    with pytest.raises(UserError, match=r"other weights than config\.json says"):
        give_eyes(tmp_path / "eyes")
    (tmp_path / "eyes" / EYES_BASE).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not a folder of eyes"):
        give_eyes(tmp_path / "eyes")


def test_a_base_is_the_installed_packages_file_or_the_hubs_name() -> None:
    here = Base("owner/name", "mplug_owl", "conversation.py")
    assert Path(here.locate()).is_file()
    assert replace(here, file="no_such_file").locate() == "owner/name"
    assert replace(here, package="no_such_package").locate() == "owner/name"


def test_weights_that_were_cut_are_named(tmp_path: Path, language: Path) -> None:
    take_eyes(trained(language, tmp_path / "owl"), tmp_path / "eyes", Base(str(language)))
    file = tmp_path / "eyes" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"eyes\.safetensors: not readable as weights"):
        give_eyes(tmp_path / "eyes")
