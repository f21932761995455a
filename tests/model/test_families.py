"""Language models as they are in practice, family by family: joined, trained, answering, saved, packed or refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from mplug_owl import Conversation, Modules, MplugOwlConfig
from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.errors import UserError
from mplug_owl.model.build import build
from mplug_owl.model.language import load_language
from mplug_owl.model.load import Owl, load, quiet
from mplug_owl.recipes import paper
from mplug_owl.train.quick import quick_passes
from mplug_owl.train.trainable import check_packing, lora_modules, prepare
from tests.families import FAMILIES, QUICK
from tests.tiny import VISIONS, picture, shaken, tiny_tokenizer

GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
ALL = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]


def joined(family: str, folder: Path) -> tuple[Owl, PreTrainedModel]:
    """An owl of a family's language model with random weights, and that language model, both from its folder."""
    torch.manual_seed(0)
    with quiet():
        stock = AutoModelForCausalLM.from_config(FAMILIES[family].config()).eval()
        shaken(stock)
        stock.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)

    def sizes() -> MplugOwlConfig:
        connector = {"connector": "mlp"}
        text = FAMILIES[family].config()
        return MplugOwlConfig(vision_config=VISIONS["own"], visual_abstractor_config=connector, text_config=text)

    owl = build(Modules(sizes, language=str(folder)), [], seed=0)
    owl.model.eval()
    return owl, stock


@pytest.mark.parametrize("family", ALL)
def test_a_family_is_joined_and_answers(family: str, tmp_path: Path) -> None:
    owl, stock = joined(family, tmp_path / "language")
    ids = torch.randint(3, 250, (2, 9))
    with torch.no_grad():
        assert torch.equal(owl.model(input_ids=ids).logits, stock(input_ids=ids).logits)
        inputs = owl.processor(
            text=["a<image>b<image>", "left-padded, and longer than a window"], images=[picture(1), picture(2)]
        )
        cached = owl.model.generate(**inputs, **GREEDY)
        assert torch.equal(cached, owl.model.generate(**inputs, **GREEDY, use_cache=False))

    with quiet():
        owl.model.save_pretrained(tmp_path / "owl")
        owl.processor.save_pretrained(tmp_path / "owl")
    again = load(tmp_path / "owl", device="cpu")
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, owl.model(**inputs).logits)

    talks = [Conversation(()).said("user", words) for words in ("a", "What is it that you see here?")]
    found = OwlChatModel(owl).answers(talks, Decoding(max_new_tokens=6))
    for talk, answer in zip(talks, found, strict=True):
        prompt = torch.tensor([owl.processor.encode(talk, reply=True).ids])
        said = again.model.generate(prompt, **{**GREEDY, "eos_token_id": 2})[0, prompt.shape[1] :]
        assert answer == str(owl.processor.decode(said, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("family", ALL)
def test_a_family_learns(family: str, tmp_path: Path) -> None:
    """LoRA on its queries and values, pictures before them, and the same gradients by the quick passes of a run."""
    owl, _ = joined(family, tmp_path)
    recipe = paper.instruct()
    everyone = replace(recipe.trainable, abstractor="full", language="lora")
    recipe = replace(recipe, trainable=everyone, lora=replace(recipe.lora, dropout=0.0), frozen_bf16=False)
    assert {name.rsplit(".", 1)[-1] for name in lora_modules(owl.model, everyone)} == set(FAMILIES[family].lora)
    if FAMILIES[family].packs:
        check_packing(owl.model)
    else:
        with pytest.raises(UserError, match="lets packed conversations see one another"):
            check_packing(owl.model)

    learner = prepare(owl.model, recipe)
    adapters = [weight for name, weight in learner.named_parameters() if ".lora_B" in name]
    for weight in adapters:
        torch.nn.init.normal_(weight, std=0.1)
    pictures = [picture(1), picture(2)]
    inputs = owl.processor(text=["a<image>b<image>", "and longer than a window"], images=pictures, padding_side="right")
    unseen = inputs["input_ids"].eq(owl.model.config.image_token_id) | inputs["attention_mask"].eq(0)
    labels = inputs["input_ids"].masked_fill(unseen, -100)
    learner(**inputs, labels=labels).loss.backward()
    learned = [weight for weight in learner.parameters() if weight.requires_grad]
    plain = [weight.grad.clone() for weight in learned]
    assert all(weight.grad.any() for weight in [*adapters, *owl.model.model.abstractor.parameters()])

    learner.zero_grad()
    with quick_passes(learner, owl.model):
        learner(**inputs, labels=labels, loss_only=True).loss.backward()
    for weight, before in zip(learned, plain, strict=True):
        torch.testing.assert_close(weight.grad, before, atol=2e-6, rtol=1e-3)


def test_a_table_with_no_row_for_a_token_gets_the_mean(tmp_path: Path) -> None:
    """Tied and untied, saved with the owl; padding alone needs no row."""
    for family in ("llama", "qwen3"):
        folder = tmp_path / family
        _, stock = joined(family, folder)
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens([f"<extra{index}>" for index in range(8)])  # three of them above the table's 264 rows
        tokenizer.save_pretrained(folder)

        def sizes(family: str = family) -> MplugOwlConfig:
            connector, text = {"connector": "mlp"}, FAMILIES[family].config()
            return MplugOwlConfig(vision_config=VISIONS["own"], visual_abstractor_config=connector, text_config=text)

        owl = build(Modules(sizes, language=str(folder)), [], seed=0)
        table, head = owl.model.get_input_embeddings().weight, owl.model.lm_head.weight
        assert (table is head) == (family == "qwen3")
        assert len(table) == len(tokenizer) == owl.model.config.image_token_id
        for found, old in ((table, stock.get_input_embeddings().weight), (head, stock.get_output_embeddings().weight)):
            assert torch.equal(found[:264], old)
            torch.testing.assert_close(found[264:], old.mean(0).expand(3, -1))
    with quiet():
        owl.model.save_pretrained(tmp_path / "owl")
        owl.processor.save_pretrained(tmp_path / "owl")
    assert torch.equal(load(tmp_path / "owl", device="cpu").model.lm_head.weight, owl.model.lm_head.weight)


@torch.no_grad()
def test_of_a_model_that_sees_already_the_half_that_reads_is_taken(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = FAMILIES["gemma3"].config()
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    whole = Gemma3Config(text_config=text, vision_config={**vision, "patch_size": 14}, mm_tokens_per_image=4)
    stock = Gemma3ForConditionalGeneration(whole).eval()
    with quiet():
        stock.save_pretrained(tmp_path)
    found = load_language(str(tmp_path))
    ids = torch.randint(3, 250, (1, 9))
    torch.testing.assert_close(found(input_ids=ids).logits, stock(input_ids=ids).logits)
    assert found.config.model_type == "gemma3_text"
    assert "Siglip" not in str(found)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 264},
            "mamba takes no past_key_values",
        ),
        ({"model_type": "t5"}, "t5 is no language model that continues text"),
        ({"model_type": "nobodys"}, "no language model can be loaded from there"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}, "its weights are quantised"),
        ({"model_type": "gemma3", "quantization_config": {"quant_method": "gptq", "bits": 4}}, "its weights are quantised"),
    ],
)
def test_what_is_no_language_model_for_an_owl_is_refused(tmp_path: Path, values: dict, reason: str) -> None:
    if values["model_type"] == "mamba":
        with quiet():
            AutoModel.from_config(AutoConfig.for_model(**values)).save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=reason):
        load_language(str(tmp_path))
    with pytest.raises(UserError, match="no language model can be loaded from there"):
        load_language(str(tmp_path / "nowhere"))
