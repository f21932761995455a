"""Text learned from the model without LoRA: definitions written out are the oracle."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mplug_owl.data.loader import Batch
from mplug_owl.errors import UserError
from mplug_owl.train import distillation, metrics
from mplug_owl.train.distillation import distillation_loss, part_text, summed_divergence, without_lora
from mplug_owl.train.loop import batch_loss
from mplug_owl.train.quick import quick_passes
from mplug_owl.train.recipe import LoRA, Recipe
from mplug_owl.train.trainable import prepare
from tests.school import initial_model, lesson, lessons, quietly

ONE = torch.tensor(1.0)


def distils(**fields: object) -> Recipe:
    """Half of each step is text alone."""
    return lesson("frozen", "frozen", "lora", text_distillation=True, text_share=0.5, **fields)


def rows(picture_token: int, pictured: tuple[bool, ...], weighs: bool = False) -> Batch:
    """A row of random ids each, the later the longer, three supervised tokens at its end; a picture takes three positions."""
    torch.manual_seed(1)
    ids_BT = torch.randint(3, 200, (len(pictured), 40))
    mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -100)
    for row, has in enumerate(pictured):
        length = 9 + 2 * row
        mask_BT[row, :length] = 1
        labels_BT[row, length - 3 : length] = ids_BT[row, length - 3 : length]
        if has:
            ids_BT[row, 1:4] = picture_token
    pixels = torch.randn(sum(pictured), 3, 28, 28) if any(pictured) else None
    weights = torch.rand(ids_BT.shape) if weighs else None
    return Batch(ids_BT, labels_BT, mask_BT, None, pixels, ("",) * len(pictured), 0, weights)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory):
    """A model with LoRA that has moved away from what it was."""
    recipe = distils()
    owl = initial_model(recipe, lessons(tmp_path_factory.mktemp("data")))
    learner = prepare(owl.model, recipe)
    for name, parameter in learner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return learner, owl.model


def test_the_divergence_and_its_gradient_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "AT_ONCE", 22)  # two rows at a time, and one left
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11).double()
    before_RE, now_RE = torch.randn(5, 6).double(), torch.randn(5, 6).double().requires_grad_()
    weights_R = torch.rand(5)
    found = summed_divergence(head, before_RE, now_RE, weights_R, 11)
    before_RV, now_RV = head(before_RE).softmax(1), head(now_RE).softmax(1)
    expected = (weights_R[:, None] * before_RV * (before_RV / now_RV).log()).sum()
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    (gradient_RE,) = torch.autograd.grad(found, now_RE)
    torch.testing.assert_close(gradient_RE, (weights_R[:, None] * (now_RV - before_RV)) @ head.weight, atol=1e-5, rtol=1e-5)


def test_parts_together_learn_from_what_the_passes_did(adapted) -> None:
    model = adapted[1]
    whole = rows(model.config.image_token_id, (True, False, True, False), weighs=True)
    (pictured,), (text,) = part_text([whole], model.config.image_token_id)
    assert pictured.pixel_values is whole.pixel_values
    assert text.pixel_values is None
    assert len(pictured.input_ids) == len(text.input_ids) == 2
    assert pictured.input_ids.shape[1] == text.input_ids.shape[1] == 16  # 13 and 15, in sixteens
    items = whole.loss_weights.sum()
    with torch.no_grad():
        parts = sum(float(batch_loss(model, part, items, "fp32")) for part in (pictured, text))
        assert parts == pytest.approx(float(batch_loss(model, whole, items, "fp32")), rel=1e-5)


def test_a_pass_of_one_kind_stays_one_pass(adapted) -> None:
    token = adapted[1].config.image_token_id
    assert [len(part) for part in part_text([rows(token, (True, True))], token)] == [1, 0]
    assert [len(part) for part in part_text([rows(token, (False, False))], token)] == [0, 1]


@pytest.mark.parametrize("quick", [False, True])
def test_the_target_is_the_model_without_lora(adapted, quick: bool) -> None:
    learner, model = adapted
    batch = rows(model.config.image_token_id, (False, False))

    def states() -> Tensor:
        whole = model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        return whole[:, :-1][batch.labels[:, 1:] != -100]

    with torch.no_grad():
        changed = states()
        with learner.disable_adapter():
            expected = states()
        with quick_passes(learner, model) if quick else torch.no_grad():
            (told,) = without_lora(learner, model, [batch], "fp32")
    torch.testing.assert_close(told.states, expected, atol=1e-5, rtol=1e-5)
    assert (changed - expected).abs().max() > 0.01
    assert learner.active_adapters == ["default"]


def test_without_a_change_there_is_nothing_to_learn(adapted) -> None:
    learner, model = adapted
    batch = rows(model.config.image_token_id, (False, False))
    (told,) = without_lora(learner, model, [batch], "fp32")
    moved = distillation_loss(model, told, ONE, "fp32")
    moved.backward()
    assert moved.item() > 1e-3
    assert max(float(weight.grad.abs().max()) for name, weight in learner.named_parameters() if "lora_" in name) > 1e-4
    learner.zero_grad(set_to_none=True)
    with learner.disable_adapter():
        still = distillation_loss(model, told, ONE, "fp32")
    assert abs(still.item()) < 1e-5


def test_weights_and_their_sum_divide_it(adapted) -> None:
    learner, model = adapted
    batch = rows(model.config.image_token_id, (False,), weighs=True)
    (plain,) = without_lora(learner, model, [replace(batch, loss_weights=None)], "fp32")
    twos = replace(plain, batch=replace(batch, loss_weights=torch.full_like(batch.loss_weights, 2.0)))
    with torch.no_grad():
        expected = distillation_loss(model, plain, torch.tensor(3.0), "fp32")
        torch.testing.assert_close(distillation_loss(model, twos, torch.tensor(6.0), "fp32"), expected)


def test_a_run_keeps_its_language_and_learns_to_see(tmp_path: Path) -> None:
    """Text's words are random here: who learns them moves, who distils stays; and a resumed run ends as the whole one."""
    drifts = {}
    for name, distil in (("words", False), ("language", True)):
        recipe = replace(distils(steps=8, save_every=4, lora=LoRA(rank=4, alpha=8, dropout=0.1)), text_distillation=distil)
        sources = lessons(tmp_path / "data", "chat", "text")
        owl = initial_model(recipe, sources)
        quietly(recipe, owl, sources, tmp_path / name)
        batch = rows(owl.model.config.image_token_id, (False, False, False))
        rows_of = metrics.read(tmp_path / name / "metrics.jsonl")
        assert rows_of[-1]["loss"] < rows_of[0]["loss"] * 1.1
        learner = owl.model
        fresh = initial_model(recipe, sources).model
        with torch.no_grad():
            told, before = (one(batch.input_ids, attention_mask=batch.attention_mask).logits for one in (learner, fresh))
        drifts[name] = float((told - before)[batch.attention_mask.bool()].abs().mean())
    assert drifts["language"] < drifts["words"]
    whole = load_file(tmp_path / "language" / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "language" / "model")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "language", resume=True)
    again = load_file(tmp_path / "language" / "model" / "model.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_it_needs_lora_and_padded_rows() -> None:
    with pytest.raises(UserError, match=r"trainable\.language=lora"):
        lesson("full", "full", "frozen", text_distillation=True)
    recipe = distils()
    packed = replace(recipe.encoding, pack=512)
    with pytest.raises(UserError, match=r"encoding\.pack"):
        replace(recipe, encoding=packed)
