"""Recipes are found by name, by module or by file; the paper's hold the paper's numbers."""

from pathlib import Path

import pytest

from mplug_owl.model.build import Modules
from mplug_owl.recipes import find, names, paper, tiny
from mplug_owl.train.recipe import LoRA, Recipe, as_json

MINE = """
from dataclasses import replace
from mplug_owl.recipes.tiny import pretrain

def run():
    return replace(pretrain(), name="mine", steps=7)

def words():
    return "no recipe"
"""


def test_these_are_all() -> None:
    assert list(names()) == [
        "tiny.language",
        "tiny.pretrain",
        "tiny.instruct",
        "paper.pretrain",
        "paper.pretrain_appendix",
        "paper.instruct",
        "paper.instruct_with_abstractor",
    ]
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
    monkeypatch.syspath_prepend(tmp_path)
    assert find("owlish.stages:run").name == "mine"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("paper.pretrian", r"no recipe 'paper\.pretrian'; there are tiny\.language, .*, my\.module:run and \./mine\.py:run"),
        ("no.such.module:run", r"no module 'no\.such\.module'"),
        ("./absent.py:run", "no such file"),
        ("{mine}:ran", "has no function 'ran'"),
        ("{mine}:words", "returns a str; expected a Recipe"),
    ],
)
def test_what_is_not_found_is_told(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(ValueError, match=told):
        find(name.format(mine=tmp_path / "mine.py"))


def learners(recipe: Recipe) -> str:
    return "-".join(vars(recipe.learners).values())


def test_the_papers_first_stage() -> None:
    """Section 3.1 of the body, 512 tokens from its appendix."""
    recipe = paper.pretrain()
    settings = recipe.optimizer
    assert (settings.lr, settings.warmup_steps, settings.weight_decay, settings.betas) == (1e-4, 2000, 0.1, (0.9, 0.98))
    assert (settings.eps, settings.clip) == (1e-6, 1.0)
    assert (recipe.steps, recipe.batch, recipe.encoding.max_tokens) == (50_000, 4096, 512)
    # "a batch size of 2.1 million tokens ... approximately 104 billion tokens"
    assert recipe.batch * recipe.encoding.max_tokens == 2_097_152
    assert recipe.steps * recipe.batch * recipe.encoding.max_tokens == 104_857_600_000
    assert learners(recipe) == "full-full-frozen"


def test_its_appendix_has_other_numbers() -> None:
    settings = paper.pretrain_appendix().optimizer
    assert (settings.lr, settings.warmup_steps, settings.weight_decay) == (2e-4, 375, 0.01)
    assert paper.pretrain_appendix().steps == paper.pretrain().steps


def test_the_papers_second_stage() -> None:
    recipe = paper.instruct()
    settings = recipe.optimizer
    assert (recipe.steps, recipe.batch, settings.lr, settings.weight_decay) == (2000, 256, 2e-5, 1e-4)
    assert (settings.betas, settings.warmup_steps) == ((0.9, 0.999), 50)
    assert recipe.lora == LoRA(rank=8, alpha=32, dropout=0.05)
    assert learners(recipe) == "frozen-frozen-lora"
    assert learners(paper.instruct_with_abstractor()) == "frozen-full-lora"


def test_the_papers_owl_starts_from_clip_and_llama() -> None:
    assert Modules(paper.owl_7b, vision="openai/clip-vit-large-patch14", language="huggyllama/llama-7b") == paper.OWL_7B
    config = paper.owl_7b()
    assert (config.vision_config.num_hidden_layers, config.num_query_tokens, config.text_config.hidden_size) == (24, 64, 4096)


def test_the_tiny_stages_share_one_owl_of_a_few_million() -> None:
    stages = [tiny.language(), tiny.pretrain(), tiny.instruct()]
    assert [learners(stage) for stage in stages] == ["frozen-frozen-full", "full-full-frozen", "frozen-frozen-lora"]
    assert {stage.modules for stage in stages} == {tiny.OWL_TINY}
