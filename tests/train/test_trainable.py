"""Who learns: the table, at the paper's sizes and on models that step."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.recipes import paper, tiny
from mplug_owl.train.recipe import LoRA, Optimizer, Rates, Recipe, Schedule, Trainable
from mplug_owl.train.trainable import lora_modules, parts_of, prepare, set_mode, table
from tests.school import initial_model, lesson, lessons, quietly, weights
from tests.tiny import CONNECTORS, LANGUAGES, VISIONS, picture, tiny_config, tiny_owl, tiny_processor


def rows(recipe: Recipe) -> dict[str, tuple[str, int, int]]:
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(recipe.modules.config())
    prepare(owl, recipe)
    return {part.name: (part.tuning, part.parameters, part.trainable) for part in table(owl, recipe.trainable)}


VISION, ABSTRACTOR, LANGUAGE = 303_179_776, 81_473_536, 6_738_415_616
PAPER = {
    paper.pretrain: {
        "vision": ("full", VISION, VISION),
        "abstractor": ("full", ABSTRACTOR, ABSTRACTOR),
        "language": ("frozen", LANGUAGE, 0),
    },
    paper.instruct: {
        "vision": ("frozen", VISION, 0),
        "abstractor": ("frozen", ABSTRACTOR, 0),
        "language": ("lora", LANGUAGE, 4_194_304),
    },
    paper.instruct_with_abstractor: {
        "vision": ("frozen", VISION, 0),
        "abstractor": ("full", ABSTRACTOR, ABSTRACTOR),
        "language": ("lora", LANGUAGE, 4_194_304),
    },
}


@pytest.mark.parametrize("stage", PAPER, ids=lambda stage: stage.__name__)
def test_the_papers_table(stage) -> None:
    made = rows(stage())
    assert made == PAPER[stage]
    assert sum(parameters for _, parameters, _ in made.values()) == 7_123_068_928


def test_the_papers_first_stage_learns_384_million() -> None:
    assert sum(learned for _, _, learned in rows(paper.pretrain()).values()) == 384_653_312


STAGES = [
    ("frozen", "frozen", "full"),
    ("full", "full", "frozen"),
    ("frozen", "full", "frozen"),
    ("frozen", "frozen", "lora"),
    ("frozen", "full", "lora"),
    ("lora", "frozen", "frozen"),
    ("lora", "lora", "lora"),
    ("last", "full", "full"),
    ("frozen", "last", "frozen"),
]


@pytest.mark.parametrize("freedoms", STAGES, ids="-".join)
def test_what_is_frozen_stays_to_the_bit_and_what_learns_moves(freedoms: tuple[str, str, str], tmp_path: Path) -> None:
    recipe, sources = lesson(*freedoms, steps=3), lessons(tmp_path / "data")
    owl = initial_model(recipe, sources)
    before = weights(owl.model)
    quietly(recipe, owl, sources, tmp_path / "run")
    # Adapters are merged by now, so LoRA shows as a change of the weights it was put on.
    moved = {name for name, tensor in weights(owl.model).items() if not torch.equal(tensor, before[name])}
    for name, modules in parts_of(owl.model).items():
        inside = {id(parameter) for module in modules for parameter in module.parameters()}
        names = {path for path, parameter in owl.model.named_parameters() if id(parameter) in inside}
        match getattr(recipe.trainable, name):
            case "frozen":
                assert not moved & names
            case "full":
                assert names - moved == set()
            case "last":
                assert moved & names == {path for path in names if re.search(r"vision_tower\.layers\.0\.|\.visual_fc\.", path)}
            case "lora":
                projections = ("q_proj", "v_proj", "query", "value", "query_key_value")
                assert moved & names == {path for path in names if path.split(".")[-2] in projections and "weight" in path}


def test_dropout_is_where_something_learns() -> None:
    owl = tiny_owl(tiny_config())
    set_mode(owl, Trainable(vision="frozen", abstractor="lora", language="last"))
    training = {name: {module.training for part in parts for module in part.modules()} for name, parts in parts_of(owl).items()}
    assert training == {"vision": {False}, "abstractor": {True}, "language": {True}}


@pytest.mark.parametrize("language", LANGUAGES)
def test_lora_finds_the_attention_of_every_family(language: str) -> None:
    owl = tiny_owl(tiny_config(language=language))
    recipe = lesson("frozen", "frozen", "lora")
    names = lora_modules(owl, recipe.trainable)
    each = 2 if language in ("llama", "qwen3", "gemma3", "opt", "phi") else 1  # two projections, or one fused
    assert len(names) == each * owl.config.text_config.num_hidden_layers
    assert all(name.startswith("model.language_model.") for name in names)

    inputs = tiny_processor(owl)(text="a<image>b", images=picture())
    learner = prepare(owl, recipe)
    learner(
        **inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == owl.config.image_token_id, -100)
    ).loss.backward()
    learning = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, parameter in learner.named_parameters() if ".lora_" in name}
    assert learning


@pytest.mark.parametrize("language", LANGUAGES)
def test_lora_on_every_linear_layer_but_the_head(language: str) -> None:
    owl = tiny_owl(tiny_config(language=language))
    bare = tiny_owl(tiny_config(language=language)).model.language_model
    named = bare.named_modules()
    linear = {name for name, module in named if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"}
    learner = prepare(owl, lesson("frozen", "frozen", "lora", lora=LoRA(on="linear")))
    adapted = {name for name, module in learner.named_modules() if hasattr(module, "lora_A")}
    assert {name.split(".language_model.")[1] for name in adapted} == linear


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("connector", CONNECTORS)
def test_the_last_layer_of_every_kind(vision: str, connector: str) -> None:
    """A stack's last layer, and a connector's projection: its output has the language model's width."""
    owl = tiny_owl(tiny_config(vision, connector))
    prepare(owl, lesson("last", "last", "frozen"))
    learning = {name for name, parameter in owl.named_parameters() if parameter.requires_grad}
    seeing = {name for name in learning if "vision_tower" in name}
    assert seeing
    assert all(re.search(r"\.layers?\.1\.", name) for name in seeing)
    assert {name.split(".")[2] for name in learning - seeing} <= {"visual_fc", "project"}


def test_a_rate_of_its_own_moves_a_module_further(tmp_path: Path) -> None:
    """AdamW's first step is as long as its rate, so the rates are read off the weights."""
    settings = Optimizer(lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98), eps=1e-12, rates=Rates(vision=1e-4))
    recipe, sources = lesson(steps=1, optimizer=settings, schedule=Schedule(warmup_steps=0)), lessons(tmp_path / "data")
    owl = initial_model(recipe, sources)
    before = weights(owl.model)
    quietly(recipe, owl, sources, tmp_path / "run")
    for name, rate in (("vision_tower.layers.0.mlp.fc1", 1e-4), ("abstractor.visual_fc", 1e-3), ("language_model.norm", 1e-3)):
        path = f"model.{name}.weight"
        assert (weights(owl.model)[path] - before[path]).abs().median().item() == pytest.approx(rate, rel=0.01)


def test_nothing_learns() -> None:
    with pytest.raises(ValueError, match=r"every module is frozen: nothing would learn; set trainable\.NAME="):
        prepare(tiny_owl(tiny_config()), lesson("frozen", "frozen", "frozen"))


def test_no_attention_to_adapt() -> None:
    owl = tiny_owl(tiny_config(connector="mlp"))
    with pytest.raises(ValueError, match=r"trainable\.abstractor=lora: no attention projection named q_proj\+v_proj"):
        prepare(owl, lesson("frozen", "lora", "frozen"))


def test_a_frozen_language_model_stored_in_half_the_memory(tmp_path: Path) -> None:
    recipe = lesson("full", "full", "frozen", steps=3, frozen_bf16=True, precision="bf16")
    sources = lessons(tmp_path)
    owl = initial_model(recipe, sources)
    prepare(owl.model, recipe)
    assert {parameter.dtype for parameter in owl.model.model.language_model.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in owl.model.model.abstractor.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_eyes_leave_no_graph(precision: str) -> None:
    """Nothing in front of a picture's features learns, so no activation of theirs is kept and nothing is gone back through."""
    owl = tiny_owl(tiny_config())
    recipe = replace(tiny.pretrain(), trainable=Trainable("frozen", "frozen", "lora"))
    learner = prepare(owl, recipe)
    ids = torch.full((1, owl.num_image_tokens + 2), owl.config.image_token_id)
    ids[:, -2:] = 5
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        labels = ids.masked_fill(ids == owl.config.image_token_id, -100)
        outputs = learner(input_ids=ids, labels=labels, pixel_values=torch.randn(1, 3, 28, 28), use_cache=False)
    assert outputs.loss.requires_grad
    assert not outputs.image_hidden_states.requires_grad
