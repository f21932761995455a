"""One training step is its equation: forward, loss, gradient, clipping and AdamW, written out in plain torch."""

from pathlib import Path

import pytest
import torch

from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import Batch, StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import Source
from mplug_owl.model.build import Modules
from mplug_owl.model.load import Owl
from mplug_owl.train import metrics
from mplug_owl.train.recipe import Optimizer, Recipe, Schedule
from tests.school import initial_model, lesson, lessons, quietly, small_with_dropout, weights

# An eps as large as gradients: with a small one AdamW's first step is as long whatever the gradient's length is.
SETTINGS = {
    "optimizer": Optimizer(lr=0.1, weight_decay=0.01, betas=(0.9, 0.98), eps=1.0),
    "schedule": Schedule(warmup_steps=2),
    "clip": 0.25,
}


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    return lessons(tmp_path / "data")


def batches(recipe: Recipe, owl: Owl, sources: list[Source], step: int = 0) -> tuple[Batch, ...]:
    """What a run of this recipe learns from in a step."""
    mixture = Mixture([len(source) for source in sources], [None] * len(sources), recipe.batch, recipe.seed)
    examples = Examples(sources, owl.processor, recipe.encoding, recipe.seed)
    return StepDataset(examples, mixture, recipe.micro_batch)[step].batches


@pytest.mark.parametrize("clip", [0.25, 1e6, None])
@pytest.mark.parametrize("micro_batch", [4, 1])
def test_a_step_is_its_equation(clip: float | None, micro_batch: int, sources: list[Source], tmp_path: Path) -> None:
    recipe = lesson(steps=1, batch=4, micro_batch=micro_batch, **{**SETTINGS, "clip": clip})
    owl = initial_model(recipe, sources)

    summed, supervised = torch.zeros(()), 0
    for batch in batches(recipe, owl, sources):
        labels = batch.labels[:, 1:]
        logits = owl.model.eval()(**{**batch.inputs, "labels": None}).logits[:, :-1]
        summed = summed + torch.nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="sum")
        supervised += int((labels != -100).sum())
    (summed / supervised).backward()
    gradients = {name: weight.grad.clone() for name, weight in owl.model.named_parameters()}
    owl.model.zero_grad()
    length = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
    shorter = 1.0 if clip is None else min(1.0, clip / length.item())
    rate = 0.1 / 2  # the first of two steps of warm-up
    expected = {}
    for name, weight in owl.model.named_parameters():
        gradient = gradients[name] * shorter
        matrix = sum(size > 1 for size in weight.shape) >= 2
        decayed = weight.detach() * (1 - rate * 0.01 * matrix)
        # After one step both averages, their bias corrected, are the gradient and its square.
        expected[name] = decayed - rate * gradient / (gradient.abs() + 1.0)

    quietly(recipe, owl, sources, tmp_path / "run")
    (row,) = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert row["loss"] == pytest.approx((summed / supervised).item(), abs=1e-5)
    assert row["grad_norm"] == pytest.approx(length.item(), rel=1e-5)
    assert length > 0.5  # or nothing would have been clipped
    for name, weight in expected.items():
        torch.testing.assert_close(
            owl.model.state_dict()[name], weight, atol=1e-6, rtol=0, msg=lambda text, name=name: name + text
        )


def test_gradients_of_before_count_for_nothing(sources: list[Source], tmp_path: Path) -> None:
    recipe = lesson(steps=1, batch=4, micro_batch=4, **SETTINGS)
    norms = []
    for name in ("clean", "used"):
        owl = initial_model(recipe, sources)
        if name == "used":
            (batch,) = batches(recipe, owl, sources)
            owl.model(**batch.inputs).loss.backward()
        quietly(recipe, owl, sources, tmp_path / name)
        norms += [row["grad_norm"] for row in metrics.read(tmp_path / name / "metrics.jsonl")]
    assert norms[0] == norms[1]


def test_dropout_is_where_something_learns(sources: list[Source], tmp_path: Path) -> None:
    """A frozen module works in training as it will when it is used."""
    forgetful = Modules(small_with_dropout, vocabulary=300)
    for tuning, training in (("frozen", False), ("full", True)):
        recipe = lesson("frozen", tuning, "full", steps=2, modules=forgetful)
        owl = initial_model(recipe, sources)
        modes: list[bool] = []
        layer = owl.model.model.abstractor.layers[0].attention
        layer.register_forward_pre_hook(lambda module, _, modes=modes: modes.append(module.training))
        quietly(recipe, owl, sources, tmp_path / tuning)
        assert set(modes) == {training}
        assert len(modes) == 4  # two steps of two passes


def test_what_is_frozen_has_no_gradient_to_clip(sources: list[Source], tmp_path: Path) -> None:
    """The length that is clipped is that of what learns."""
    recipe = lesson("frozen", "full", "frozen", steps=1, batch=4, micro_batch=4, **SETTINGS)
    owl = initial_model(recipe, sources)
    (batch,) = batches(recipe, owl, sources)
    before = weights(owl.model)
    owl.model.requires_grad_(False)
    owl.model.model.abstractor.requires_grad_(True)
    owl.model(**batch.inputs).loss.backward()
    length = torch.stack([weight.grad.square().sum() for weight in owl.model.model.abstractor.parameters()]).sum().sqrt()
    owl.model.zero_grad()
    quietly(recipe, owl, sources, tmp_path / "run")
    (row,) = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert row["grad_norm"] == pytest.approx(length.item(), rel=1e-5)
    moved = {name for name, tensor in weights(owl.model).items() if not torch.equal(tensor, before[name])}
    assert moved == {f"model.abstractor.{name}" for name, _ in owl.model.model.abstractor.named_parameters()}


def test_words_that_reach_nothing_that_learns_teach_nothing(sources: list[Source], tmp_path: Path) -> None:
    """A pass without pictures while the language model is frozen: so is one of a process whose samples are all bad."""
    recipe = lesson("full", "full", "frozen", steps=2, batch=4, micro_batch=1, **SETTINGS)
    words = lessons(tmp_path / "data", "text")
    owl = initial_model(recipe, words)
    before = weights(owl.model)
    quietly(recipe, owl, words, tmp_path / "words")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(owl.model).items())
    assert [(row["loss"] > 5, row["grad_norm"]) for row in metrics.read(tmp_path / "words" / "metrics.jsonl")] == 2 * [
        (True, 0)
    ]
    both = [*sources, *words]
    owl = initial_model(recipe, both)
    before = weights(owl.model)
    quietly(recipe, owl, both, tmp_path / "both")
    moved = {name.split(".")[1] for name, tensor in weights(owl.model).items() if not torch.equal(tensor, before[name])}
    assert moved == {"vision_tower", "abstractor"}
