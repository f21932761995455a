"""Recipes are found by name, by module or by file; the paper's hold the paper's numbers."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mplug_owl import MplugOwlConfig
from mplug_owl.data.encode import Encoding
from mplug_owl.errors import UserError
from mplug_owl.model.build import Modules, count
from mplug_owl.model.load import load
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.recipes import find, names, paper, paradigms, stages, tiny
from mplug_owl.train import metrics
from mplug_owl.train.recipe import LoRA, Recipe, Schedule, as_json
from mplug_owl.train.trainable import lora_modules
from tests.school import initial_model, lesson, lessons, quietly, small

MINE = """
from dataclasses import replace
from mplug_owl.recipes.tiny import pretrain

def run():
    return replace(pretrain(), name="mine", steps=7)

def words():
    return "no recipe"

def sizes():
    raise OSError("We couldn't connect.\\nCheck it.")

def sized():
    return replace(pretrain(), modules=replace(pretrain().modules, config=sizes))

def sizeless():
    return replace(pretrain(), modules=replace(pretrain().modules, config=lambda: None))
"""


def test_each_has_a_line_about_itself() -> None:
    assert {"tiny.language", "tiny.pretrain", "tiny.instruct", "paper.pretrain", "paper.instruct"} <= names().keys()
    assert all(len(line) < 120 and line.endswith(".") for line in names().values())


@pytest.mark.parametrize("name", names())
def test_each_is_found_under_the_name_it_has(name: str) -> None:
    assert find(name).name == name
    assert as_json(find(name))["name"] == name


def test_one_of_ones_own_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert find(f"{tmp_path}/mine.py:run").steps == 7
    monkeypatch.chdir(tmp_path)
    assert find("./mine.py:run").name == "mine"
    assert find("mine.py:run").name == "mine"


def test_one_of_ones_own_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owlish").mkdir()
    (tmp_path / "owlish" / "stages.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert find("owlish.stages:run").name == "mine"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "paper.pretrian",
            r"no recipe 'paper\.pretrian', perhaps paper\.pretrain; there are tiny\.lookups, .*, my\.module:run",
        ),
        ("zzz", r"no recipe 'zzz'; there are tiny\.lookups, .*, my\.module:run and \./mine\.py:run"),
        ("paradigms.llava", r"paradigms\.llava has several stages; name one of paradigms\.llava_pretrain, paradigms\.llava_"),
        ("no.such.module:run", r"no module 'no\.such\.module'"),
        ("./absent.py:run", "no such file"),
        ("{mine}:ran", "has no function 'ran'"),
        ("{mine}", r"mine\.py: names a file and no function of it; expected .*mine\.py:FUNCTION, such as .*mine\.py:run$"),
        ("{mine}:sized", r"mine\.py, line 12: OSError: We couldn't connect\. Check it\.$"),
        ("{mine}:words", "returns a str; expected a Recipe"),
        ("{mine}:sizeless", r"modules\.config makes a NoneType; expected an MplugOwlConfig$"),
        (":run", r"^:run: names no file before its colon; expected my\.module:run or \./mine\.py:run$"),
        ("./mine:run", r"^\./mine: not a module's name, and not a file that ends in \.py; expected my\.module or \./mine\.py$"),
    ],
)
def test_what_is_not_found_is_told(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(UserError, match=told):
        find(name.format(mine=tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("name", "several"),
    [
        ("paper.pretrain", ["paper.pretrain"]),  # a recipe is itself, though paper.pretrain_appendix begins so too
        ("paper.multilingual", ["paper.multilingual_pretrain", "paper.multilingual_instruct"]),
        ("paradigms.kosmos1", ["paradigms.kosmos1_pretrain", "paradigms.kosmos1_instruct"]),
        ("paradigms.blip2", ["paradigms.blip2_first", "paradigms.blip2_second"]),
        ("tiny.language", ["tiny.language"]),
        ("./mine.py:run", ["./mine.py:run"]),
        ("unknown", ["unknown"]),
    ],
)
def test_a_name_may_stand_for_all_its_stages(name: str, several: list[str]) -> None:
    assert stages(name) == several


def trainable(recipe: Recipe) -> str:
    return "-".join(vars(recipe.trainable).values())


def test_the_papers_first_stage() -> None:
    """Section 3.1 of the body, 512 tokens from its appendix."""
    recipe = paper.pretrain()
    settings = recipe.optimizer
    assert (settings.lr, settings.weight_decay, settings.betas, settings.eps) == (1e-4, 0.1, (0.9, 0.98), 1e-6)
    assert (recipe.schedule, recipe.clip) == (Schedule(warmup_steps=2000, min_lr=0.0), 1.0)
    assert (recipe.steps, recipe.batch, recipe.encoding.max_tokens) == (50_000, None, 512)
    # "a batch size of 2.1 million tokens ... approximately 104 billion tokens"
    assert recipe.batch_tokens == pytest.approx(2.1e6, rel=0.002)
    assert recipe.steps * recipe.batch_tokens == 104_857_600_000
    assert recipe.encoding.pack is not None
    assert trainable(recipe) == "full-full-frozen"


def test_its_appendix_has_other_numbers() -> None:
    recipe = paper.pretrain_appendix()
    assert (recipe.optimizer.lr, recipe.schedule.warmup_steps, recipe.optimizer.weight_decay) == (2e-4, 375, 0.01)
    assert paper.pretrain_appendix().steps == paper.pretrain().steps


def test_the_papers_second_stage() -> None:
    recipe = paper.instruct()
    settings = recipe.optimizer
    assert (recipe.steps, recipe.batch, settings.lr, settings.weight_decay) == (2000, 256, 2e-5, 1e-4)
    assert (settings.betas, recipe.schedule.warmup_steps) == ((0.9, 0.999), 50)
    assert recipe.lora == LoRA(rank=8, alpha=32, dropout=0.05)
    assert trainable(recipe) == "frozen-frozen-lora"
    assert trainable(paper.instruct_with_abstractor()) == "frozen-full-lora"


def test_the_papers_owl_starts_from_clip_and_llama() -> None:
    assert Modules(paper.owl_7b, vision="openai/clip-vit-large-patch14", language="huggyllama/llama-7b") == paper.OWL_7B
    config = paper.owl_7b()
    assert (config.vision_config.num_hidden_layers, config.num_query_tokens, config.text_config.hidden_size) == (24, 64, 4096)


def test_the_tiny_stages_share_one_owl_of_a_few_million() -> None:
    stages = [tiny.language(), tiny.pretrain(), tiny.instruct()]
    assert [trainable(stage) for stage in stages] == ["frozen-frozen-full", "full-full-frozen", "frozen-frozen-lora"]
    assert [stage.modules for stage in stages] == [tiny.FRESH, tiny.OWL_TINY, tiny.OWL_TINY]
    assert tiny.FRESH.config().to_dict() == tiny.OWL_TINY.config().to_dict()
    assert tiny.captioner().vision_config.to_dict() == tiny.owl_tiny().vision_config.to_dict()


def test_the_multilingual_owl_is_the_papers_on_another_language_model() -> None:
    for stage, like in ((paper.multilingual_pretrain(), paper.pretrain()), (paper.multilingual_instruct(), paper.instruct())):
        assert stage.encoding == replace(like.encoding, pack=None)  # BLOOM cannot be packed
        assert replace(stage, name=like.name, modules=like.modules, encoding=like.encoding) == like
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(paper.owl_bloomz_7b())
    assert count(nn.ModuleList([owl.model.language_model, owl.model.embedding_norm])) == 7_069_016_064  # bigscience/bloomz-7b1
    assert owl.lm_head.weight is owl.get_input_embeddings().weight
    adapted = lora_modules(owl, paper.multilingual_instruct().trainable)
    assert adapted == [f"model.language_model.h.{i}.self_attention.query_key_value" for i in range(30)]


# PAPER.md's table of end-to-end paradigms: vision, connector and language in each stage.
PARADIGMS = {
    "paradigms.blip2_first": "qformer: frozen-full-frozen",
    "paradigms.blip2_second": "qformer: frozen-full-frozen",
    "paradigms.minigpt4_pretrain": "qformer: frozen-last-frozen",
    "paradigms.minigpt4_instruct": "qformer: frozen-last-frozen",
    "paradigms.llava_pretrain": "linear: frozen-full-frozen",
    "paradigms.llava_instruct": "linear: frozen-full-full",
    "paradigms.kosmos1_pretrain": "resampler: last-full-full",
    "paradigms.kosmos1_instruct": "resampler: last-full-full",
    "paper.pretrain": "abstractor: full-full-frozen",
    "paper.instruct": "abstractor: frozen-frozen-lora",
}


@pytest.mark.parametrize("name", PARADIGMS)
def test_paradigms_differ_in_who_learns_and_in_the_connector(name: str) -> None:
    recipe = find(name)
    config = recipe.modules.config()
    assert f"{config.visual_abstractor_config.connector}: {trainable(recipe)}" == PARADIGMS[name]
    assert config.vision_config.to_dict() == paper.owl_7b().vision_config.to_dict()
    if "kosmos1" not in name:
        assert config.text_config.to_dict() == paper.owl_7b().text_config.to_dict()


TINY = "from dataclasses import replace\nfrom mplug_owl.recipes.tiny import pretrain\n"
MISTAKES = {
    "def run(:\n    pass\n": r"line 1: SyntaxError: ",
    "import os\n\nsteps = stepz\n": r"line 3: NameError: name 'stepz' is not defined$",
    "import nowhere_to_be_found\n": r"line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'$",
    f"{TINY}\n\ndef run():\n    return pretrain(3)\n": r"line 6: TypeError: pretrain\(\) takes",
    f"{TINY}run = lambda: replace(pretrain(), data='scenes:text')\n": r"line 3: data is 'scenes:text'; it must be tuple\[str, ",
    f"{TINY}run = lambda: replace(pretrain(), batch=3)\n": r"line 3: batch 3 is no multiple of micro_batch 16$",
}


@pytest.mark.parametrize("text", MISTAKES)
@pytest.mark.parametrize("named", ["./mine.py:run", "mine_{}:run"])
def test_a_mistake_in_ones_own_file_names_its_line(
    text: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = named.format(list(MISTAKES).index(text))  # an imported module stays imported
    (tmp_path / f"{name.removeprefix('./').removesuffix(':run').removesuffix('.py')}.py").write_text(text)
    with pytest.raises(UserError, match=rf"mine[_\d]*\.py, {MISTAKES[text]}") as caught:
        find(name)
    assert len(str(caught.value).splitlines()) == 1


def test_every_paradigm_is_one() -> None:
    assert {name for name in names() if name.startswith("paradigms.")} == {name for name in PARADIGMS if "paradigms" in name}


def test_what_was_frozen_before_it_learned_goes_on_from_a_run_where_it_did() -> None:
    assert paradigms.blip2_second().init_from == f"runs/{paradigms.blip2_first().name}"
    assert paradigms.minigpt4_pretrain().init_from == f"runs/{paradigms.blip2_second().name}"
    assert paradigms.minigpt4_instruct().init_from == f"runs/{paradigms.minigpt4_pretrain().name}"
    assert paradigms.kosmos1_instruct().init_from == f"runs/{paradigms.kosmos1_pretrain().name}"


def test_sizes_of_the_other_paradigms() -> None:
    made = {}
    for sizes in (paradigms.qformer_owl, paradigms.linear_owl, paradigms.kosmos1_owl):
        with torch.device("meta"):
            owl = MplugOwlForConditionalGeneration(sizes())
        made[sizes.__name__] = (count(owl.model.abstractor), owl.num_image_tokens, count(owl.model.language_model))
    assert made["qformer_owl"][1] == 32
    assert made["linear_owl"][:2] == (1024 * 4096 + 4096, 257)
    assert made["kosmos1_owl"][1] == 64
    assert made["kosmos1_owl"][2] == pytest.approx(1.3e9, rel=0.04)  # "about 1.3B parameters"


def test_epochs_and_tokens_are_what_the_papers_say() -> None:
    llava, tuned, kosmos = paradigms.llava_pretrain(), paradigms.llava_instruct(), paradigms.kosmos1_pretrain()
    assert llava.steps * llava.batch == pytest.approx(595_000, rel=1e-3)
    assert tuned.steps * tuned.batch == pytest.approx(3 * 158_000, rel=1e-3)
    for recipe in (llava, tuned):
        assert recipe.schedule.warmup_steps == pytest.approx(0.03 * recipe.steps, abs=1)
    assert kosmos.batch_tokens == pytest.approx(1.2e6, rel=0.02)


@pytest.mark.parametrize("name", names())
def test_a_step_is_counted_in_one_way(name: str) -> None:
    recipe = find(name)
    assert (recipe.batch is None) == (recipe.batch_tokens is not None)


def small_kosmos1() -> MplugOwlConfig:
    """Kosmos-1's kinds of parts at the school's size."""
    config, school = paradigms.kosmos1_owl(), small()
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MplugOwlConfig(
        vision_config=school.vision_config,
        visual_abstractor_config={**school.visual_abstractor_config.to_dict(), "connector": "resampler"},
        text_config={**config.text_config.to_dict(), **narrow, "max_position_embeddings": 256},
        num_query_tokens=2,
    )


def test_kosmos1_learns_and_its_model_opens_again(tmp_path: Path) -> None:
    recipe = lesson(
        *vars(paradigms.kosmos1_pretrain().trainable).values(),
        modules=Modules(small_kosmos1, vocabulary=300),
        encoding=Encoding(max_tokens=128, learn="everything", pack=256),  # as in the recipe, packed
        steps=8,
    )
    assert paradigms.kosmos1_pretrain().encoding.pack
    sources = lessons(tmp_path / "data")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    losses = [row["loss"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    assert load(tmp_path / "run").model.config.text_config.model_type == "gpt_neox"


def test_a_book_of_recipes_is_its_own_alone() -> None:
    """tiny_paradigms begins with tiny too."""
    assert stages("tiny") == [name for name in names() if name.startswith("tiny.")]
