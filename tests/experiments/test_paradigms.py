"""The study of paradigms: what each arm is, equal budgets, own schedules, and a table with a row each."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.data.sources import read
from mplug_owl.experiments.ablation import ablate
from mplug_owl.experiments.ablation_report import steps_of
from mplug_owl.experiments.cells import Cell
from mplug_owl.experiments.experts.arms import WORDS
from mplug_owl.experiments.paradigms import SAMPLES, stage_flops
from mplug_owl.experiments.studies import instruct, pretrain
from mplug_owl.experiments.study import Study, find
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.load import load_processor
from mplug_owl.model.locate import bundled
from mplug_owl.recipes import paper, tiny, tiny_paradigms
from mplug_owl.recipes import paradigms as published
from mplug_owl.train.recipe import Recipe
from tests.experiments.test_ablation import Colours, Guesser
from tests.school import small
from tests.world import write

pytest.importorskip("scipy")
QUIET = Console(quiet=True)
OTHERS = ("blip2", "minigpt4", "llava", "kosmos1")


@pytest.fixture(scope="module")
def study() -> Study:
    return find("paradigms")


def test_each_paradigm_is_there_twice_beside_the_paper_s(study: Study) -> None:
    ends = (*OTHERS, *(f"{name}-own" for name in OTHERS))
    assert {arm.name for arm in study.arms} == {*ends, "mplug-owl", *WORDS}
    assert study.compared_with == "mplug-owl"
    assert study.arm("mplug-owl").stages == (pretrain(), instruct())
    cells = [Cell(arm, 0, Path("out")).folder for arm in study.arms]
    assert (
        len(set(cells)) == len(cells) - len(WORDS) + 1
    )  # experts share the captioner, and their exams have names of their own


def test_the_budget_of_each_stage_is_mplug_owl_s(study: Study) -> None:
    """To half a step of each of its stages."""
    one, two = stage_flops(pretrain()), stage_flops(instruct())
    for name in OTHERS:
        *before, last = study.arm(name).stages
        assert sum(map(stage_flops, before)) == pytest.approx(one, rel=0.01), name
        assert stage_flops(last) == pytest.approx(two, rel=0.01), name
        assert {stage.batch for stage in (*before, last)} == {pretrain().batch}
        assert all(stage.data == pretrain().data for stage in before)


def test_all_stand_on_the_same_modules_and_begin_where_the_stage_before_ended(study: Study) -> None:
    for arm in study.arms:
        for stage in arm.stages:
            assert (stage.modules.vision, stage.modules.language) == (tiny.OWL_TINY.vision, tiny.OWL_TINY.language)
            config, owl = stage.modules.config(), tiny.owl_tiny()
            assert config.vision_config.to_dict() == owl.vision_config.to_dict()
            assert config.text_config.to_dict() == owl.text_config.to_dict()
            assert (stage.threads, stage.init_from) == (1, None)
    minigpt4, blip2 = (Cell(study.arm(name), 0, Path("out")).runs for name in ("minigpt4-own", "blip2-own"))
    assert minigpt4[:2] == blip2  # trained once


@pytest.mark.parametrize(
    ("name", "large"),
    [(name, getattr(published, name)()) for name in vars(tiny_paradigms) if name in vars(published) and name[0].islower()
     and getattr(getattr(published, name), "__annotations__", {}).get("return") is Recipe],
)  # fmt: skip
def test_own_schedules_are_the_published_ones_by_two_factors(name: str, large: Recipe) -> None:
    made = getattr(tiny_paradigms, name)()
    first = not name.endswith("_instruct")
    theirs, ours = (paper.pretrain_appendix(), tiny.pretrain()) if first else (paper.instruct(), tiny.instruct())
    assert made.name == f"tiny_paradigms.{name}"
    assert made.trainable == large.trainable
    assert made.objective == large.objective
    kinds = (one.modules.config().visual_abstractor_config.connector for one in (made, large))
    assert len(set(kinds)) == 1
    assert made.steps / ours.steps == pytest.approx(large.steps / theirs.steps, abs=0.5 / ours.steps)
    if large.batch is not None:
        assert abs(made.batch - large.batch * ours.batch / theirs.batch) <= 0.5 or made.batch == 1


@pytest.mark.parametrize("spec", SAMPLES)
def test_samples_are_as_long_as_the_budget_takes_them(spec: str) -> None:
    """Measured on 48 of them; the table has 1,024."""
    processor = load_processor(str(bundled("owl-tiny")))
    source = read(spec)
    lengths = [len(processor.encode(source[index])) for index in range(48)]
    positions = tiny.owl_tiny().num_query_tokens + 1
    words, pictures = SAMPLES[spec]
    assert sum(lengths) / 48 - positions * pictures == pytest.approx(words, rel=0.1)


def shrunk(recipe: Recipe, data: str) -> Recipe:
    """The stage on the school's modules, two steps of two samples."""
    kind = recipe.modules.config().visual_abstractor_config.connector

    def sizes() -> MplugOwlConfig:
        config = small().to_dict()
        return MplugOwlConfig.from_dict(
            {**config, "visual_abstractor_config": {**config["visual_abstractor_config"], "connector": kind}}
        )

    files = {"captions": "captions", "reading": "captions", "chats": "chats", "text": "text"}
    named = dict.fromkeys(files[spec.partition("@")[0].rpartition(":")[2]] for spec in recipe.data)
    specs = tuple(f"{'captions' if name == 'captions' else 'chat'}:{data}/{name}.jsonl" for name in named)
    modules = Modules(sizes, vocabulary=300)
    encoding = replace(recipe.encoding, max_tokens=256)
    return replace(recipe, modules=modules, data=specs, steps=2, batch=2, micro_batch=2, attention=None, encoding=encoding)


def test_the_table_has_a_row_each_and_says_what_is_equal(study: Study, tmp_path: Path) -> None:
    arms = tuple(replace(arm, stages=(), answers=lambda _: Guesser(0.5)) for arm in study.arms)
    found = ablate(replace(study, arms=arms, claims=(), task=Colours(), conditions=()), tmp_path, seeds=1, console=QUIET)
    assert [row.arm for row in found.rows] == [arm.name for arm in study.arms]
    assert "Same budget: " in (tmp_path / "table.txt").read_text("utf-8")
    assert steps_of(study.arm("mplug-owl")) == "1,200 + 240"


@pytest.mark.slow
def test_every_arm_trains(study: Study, tmp_path: Path) -> None:
    write(tmp_path / "data", 8, 5)
    arms = tuple(
        replace(
            arm, stages=tuple(shrunk(stage, str(tmp_path / "data")) for stage in arm.stages), answers=lambda _: Guesser(0.5)
        )
        for arm in study.arms
    )
    mine = replace(study, arms=arms, claims=(), task=Colours(), conditions=())
    found = ablate(mine, tmp_path / "out", seeds=1, console=QUIET)
    assert found.missing == 0
    assert all(cost is not None and cost.flops > 0 for cost in found.costs.values())
    assert "2 + 2 + 2" in (tmp_path / "out" / "table.txt").read_text("utf-8")
