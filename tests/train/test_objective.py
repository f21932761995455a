"""BLIP-2's first step by a recipe: its losses, who learns, how it resumes, what it costs, what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl import MplugOwlConfig
from mplug_owl.data.encode import Encoding
from mplug_owl.errors import UserError
from mplug_owl.model import blip2
from mplug_owl.model.build import Modules
from mplug_owl.model.load import load
from mplug_owl.train import metrics
from mplug_owl.train.flops import count_flops
from mplug_owl.train.loop import dropout_seed
from mplug_owl.train.objective import add_objective
from mplug_owl.train.plan import plan
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.trainable import prepare, table
from tests.school import initial_model, lesson, lessons, quietly, small, weights


def small_qformer() -> MplugOwlConfig:
    """The school's owl with a Q-Former of two layers."""
    config = small().to_dict()
    connector = {**config["visual_abstractor_config"], "connector": "qformer", "num_hidden_layers": 2}
    return MplugOwlConfig.from_dict({**config, "visual_abstractor_config": connector})


def many_queries() -> MplugOwlConfig:
    """The same with more queries than a short text has words, and twice the layers."""
    config = small_qformer().to_dict()
    connector = {**config["visual_abstractor_config"], "num_hidden_layers": 4}
    return MplugOwlConfig.from_dict({**config, "num_query_tokens": 24, "visual_abstractor_config": connector})


def pairs(**fields: object) -> Recipe:
    """A few steps of eight pairs."""
    usual = {
        "modules": Modules(small_qformer, vocabulary=300),
        "encoding": Encoding(max_tokens=64),
        "batch": 8,
        "micro_batch": 8,
    }
    return lesson("frozen", "full", "frozen", objective="blip2", **{**usual, **fields})


def test_a_step_s_loss_is_the_three_of_its_pairs_and_it_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, sources = pairs(steps=12), lessons(tmp_path / "data", "captions")
    asked: list[tuple[Tensor, Tensor]] = []
    forward = blip2.FirstStep.forward

    def noted(self: blip2.FirstStep, labels: Tensor, pixel_values: Tensor, **given: object) -> object:
        asked.append((labels, pixel_values))
        return forward(self, labels=labels, pixel_values=pixel_values, **given)

    monkeypatch.setattr(blip2.FirstStep, "forward", noted)
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    losses = [row["loss"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl")]
    owl = initial_model(recipe, sources)
    torch.manual_seed(recipe.seed)
    add_objective(owl.model, recipe)
    torch.manual_seed(dropout_seed(recipe.seed, 0, 0, 0))
    labels, pixels = asked[0]
    with torch.no_grad():
        found = blip2.losses(owl.model, pixels, *blip2.texts_of(labels))
    assert losses[0] == pytest.approx(float(found.contrast + found.matching + found.generation), rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


def test_the_q_former_learns_alone_and_a_resumed_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    recipe, sources, run = pairs(steps=8, save_every=4, micro_batch=4), lessons(tmp_path / "data", "captions"), tmp_path / "run"
    owl = initial_model(recipe, sources)
    before = weights(owl.model)
    quietly(recipe, owl, sources, run)
    after = load(run, device="cpu", dtype="float32").model.state_dict()
    assert set(after) == set(before)  # an owl as any other
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.abstractor.") and ".project." not in name for name in changed)

    files = [run / "model" / "model.safetensors", run / "text_side.safetensors"]
    whole = [load_file(file) for file in files]
    shutil.rmtree(run / "model")
    files[1].unlink()
    quietly(recipe, initial_model(recipe, sources), sources, run, resume=True)
    for kept, file in zip(whole, files, strict=True):
        again = load_file(file)
        assert kept.keys() == again.keys()
        assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_what_it_left_is_what_the_next_stage_begins_with(tmp_path: Path) -> None:
    recipe, sources = pairs(steps=1), lessons(tmp_path / "data", "captions")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "first")
    second = replace(recipe, objective="generation", init_from=str(tmp_path / "first"), steps=2)
    quietly(second, initial_model(second, sources), sources, tmp_path / "second")
    owl = load(tmp_path / "first", device="cpu", dtype="float32").model
    blip2.load_text_side(owl, tmp_path / "first" / "text_side.safetensors")
    assert blip2.text_side(owl).temperature.isfinite()
    assert not (tmp_path / "second" / "text_side.safetensors").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": lesson().trainable}, "set trainable.language=frozen$"),
        (
            {"text_share": 0.5, "encoding": Encoding(max_tokens=64, weigh="answers")},
            "set encoding.weigh=tokens, text_share=none",
        ),
        ({"encoding": Encoding(max_tokens=64, pack=64)}, "set encoding.pack=none"),
        ({"encoding": Encoding(max_tokens=64, pictures=False)}, "set encoding.pictures=true"),
        ({"gradient_checkpointing": True}, "set gradient_checkpointing=false"),
        ({"micro_batch": 1}, "micro_batch is 1; objective=blip2 compares the pairs of a pass"),
    ],
)
def test_what_does_not_fit_it_says_what_to_set(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pairs(**fields)


def test_it_needs_a_q_former_and_a_picture_in_every_sample(tmp_path: Path) -> None:
    sources = lessons(tmp_path / "data", "captions")
    recipe = pairs(modules=Modules(small, vocabulary=300))
    with pytest.raises(UserError, match="connector is abstractor; BLIP-2's first step teaches a qformer"):
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    with pytest.raises(UserError, match="connector is abstractor"):
        plan(recipe)
    text = lessons(tmp_path / "data", "text")
    with pytest.raises(UserError, match="0 pictures in 8 samples"):
        quietly(pairs(), initial_model(pairs(), text), text, tmp_path / "text")


def test_its_flops_are_what_a_step_really_takes(tmp_path: Path) -> None:
    """Counted while it runs, on short texts of one length; the plan leaves out words' attention to one another."""
    recipe, sources = pairs(modules=Modules(many_queries, vocabulary=300)), lessons(tmp_path / "data", "captions")
    owl = initial_model(recipe, sources)
    add_objective(owl.model, recipe)
    prepare(owl.model, recipe)
    examples = [owl.processor.encode(sources[0][index]) for index in range(8)]
    batch = owl.processor.batch(examples, side="right", labels=True)
    ids_IL = blip2.texts_of(batch["labels"])[0][:, :6]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # a CPU's fused kernel is not counted
        found = blip2.losses(owl.model, batch["pixel_values"], ids_IL, torch.ones_like(ids_IL).bool())
        (found.contrast + found.matching + found.generation).backward()
    each = count_flops(owl.model.config, table(owl.model, recipe.trainable), "blip2")
    words = 1 + ids_IL.shape[1] + owl.model.num_image_tokens  # one more begins the text
    assert 8 * each(words, 1) == pytest.approx(counter.get_total_flops(), rel=0.06)


def test_its_plan_counts_the_text_side_and_no_language_model() -> None:
    first, second = plan(pairs()), plan(replace(pairs(), objective="generation"))
    assert first.parts[1].trainable > second.parts[1].trainable
    assert first.memory["activations"] > 0
    assert first.memory["logits"] == 8 * (64 - 2) * first.recipe.modules.config().text_config.vocab_size * 12
