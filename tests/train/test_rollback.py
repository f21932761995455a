"""Going back: after too many bad steps in a row the run takes older weights and goes on with the samples that come next."""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl.data.mixture import Mixture
from mplug_owl.errors import Interrupted
from mplug_owl.model.build import Modules
from mplug_owl.model.load import Owl
from mplug_owl.train import disk, loop, metrics, session
from mplug_owl.train.loss_guard import LossGuard
from mplug_owl.train.recipe import LoRA, Schedule
from mplug_owl.train.reporter import Progress
from tests.school import SCENES, PowerCutError, initial_model, killed_at, lesson, lessons, quietly, small_with_dropout

RECIPE = lesson(
    "full", "full", "lora", steps=12, save_every=3, patience=1, lora=LoRA(rank=2, alpha=4, dropout=0.3),
    modules=Modules(small_with_dropout, vocabulary=300),
)  # fmt: skip


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Collection[int]], None]:
    """From now on these steps, counted from 1, give a loss that is no number."""
    learn = loop.forward_backward

    def steps(bad: Collection[int]) -> None:
        def learn_or_not(run, number, batches, supervised):
            loss = learn(run, number, batches, supervised)
            return loss * float("nan") if number + 1 in bad else loss

        monkeypatch.setattr(loop, "forward_backward", learn_or_not)

    return steps


def learn(data: Path, out: Path, recipe=RECIPE, **options) -> dict[str, torch.Tensor]:
    sources = lessons(data)
    quietly(recipe, initial_model(recipe, sources), sources, out, **options)
    return load_file(out / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lines(run: Path) -> list[tuple]:
    return [(row["step"], row.get("loss"), row["grad_norm"], row["lr"]) for row in metrics.read(run / "metrics.jsonl")]


def skipped(run: Path) -> list[dict]:
    return disk.read(run / "skipped.jsonl")


def in_step(number: int, data: Path) -> list[str]:
    """The samples of a step counted from 1."""
    chosen = Mixture([SCENES], [None], RECIPE.batch, RECIPE.seed).step(number - 1)
    return [f"chat:{data}/chats.jsonl[{sample.index}]" for sample in chosen]


def test_it_takes_older_weights_and_goes_on_with_the_samples_that_come_next(data: Path, tmp_path: Path, poisoned) -> None:
    poisoned((5, 6, 7))
    told: list[str] = []
    back = learn(data, tmp_path / "back", note=told.append)
    assert told == ["step 6: too many steps left out in a row; continuing with the weights of step 3"]
    # The same as if nothing had been learned from step 3 to step 8.
    poisoned((4, 5, 6, 7))
    assert same(back, learn(data, tmp_path / "out", replace(RECIPE, patience=10)))
    rows = skipped(tmp_path / "back")
    assert [(row["step"], row.get("back_to")) for row in rows] == [(5, None), (6, None), (6, 3), (7, None)]
    assert rows[0]["samples"] == in_step(5, data)
    assert rows[2]["samples"] == [sample for number in (4, 5, 6) for sample in in_step(number, data)]
    assert [row["step"] for row in metrics.read(tmp_path / "back" / "metrics.jsonl")] == list(range(1, 13))
    assert "loss" not in metrics.read(tmp_path / "back" / "metrics.jsonl")[4]  # nothing was learned, so there is none


@pytest.mark.parametrize("killed", [5, 6, 7, 8, 10])
def test_killed_anywhere_around_it_the_end_is_the_same(killed: int, data: Path, tmp_path: Path, poisoned) -> None:
    poisoned((5, 6, 7))
    whole = learn(data, tmp_path / "whole")

    with pytest.raises(PowerCutError):
        learn(data, tmp_path / "run", report=killed_at(killed))
    assert same(learn(data, tmp_path / "run", resume=True), whole)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert skipped(tmp_path / "run") == skipped(tmp_path / "whole")


def test_stopped_in_between_it_does_not_go_back_to_where_it_was_stopped(
    data: Path, tmp_path: Path, poisoned, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned((5, 6))
    whole = learn(data, tmp_path / "whole")
    asked = []

    def ask(progress: Progress) -> None:
        if progress.step == 3:
            asked[0].asked = True

    class Listening(session.Stop):
        def __init__(self, *given) -> None:
            super().__init__(*given)
            asked.insert(0, self)

    monkeypatch.setattr(session, "Stop", Listening)
    with pytest.raises(Interrupted, match="after step 4"):
        learn(data, tmp_path / "run", report=ask)
    assert same(learn(data, tmp_path / "run", resume=True), whole)


def test_where_going_back_did_not_help_it_goes_back_farther(data: Path, tmp_path: Path) -> None:
    """The weights break in step 6 and the checkpoint behind it holds them."""
    recipe, sources = replace(RECIPE, keep_checkpoints=3), lessons(data)
    owl, told = initial_model(recipe, sources), []

    def break_weights(progress: Progress) -> None:
        if progress.step == 6:
            with torch.no_grad():
                norm(owl).fill_(float("nan"))

    quietly(recipe, owl, sources, tmp_path / "run", report=break_weights, note=told.append)
    ending = "too many steps left out in a row; continuing with the weights of step"
    assert told == [f"step 8: {ending} 6", f"step 10: {ending} 3"]
    assert torch.isfinite(norm(owl)).all()
    assert [row["step"] for row in skipped(tmp_path / "run") if "back_to" not in row] == [7, 8, 9, 10]


def norm(owl: Owl) -> torch.nn.Parameter:
    """A weight that every picture passes."""
    return next(tensor for name, tensor in owl.model.named_parameters() if "abstractor" in name and tensor.requires_grad)


def test_it_does_not_go_back_for_ever(data: Path, tmp_path: Path, poisoned) -> None:
    poisoned(range(5, 100))
    told: list[str] = []
    match = (
        r"^step 8: the 2th in a row that cannot be learned from, after going back 1 times \(rollbacks=1\); its samples: "
        r"chat:.*chats\.jsonl\[\d\], "
    )
    with pytest.raises(ValueError, match=match):
        learn(data, tmp_path, replace(RECIPE, rollbacks=1), note=told.append)
    assert len(told) == 1


def test_without_a_checkpoint_from_before_it_ends(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer=replace(RECIPE.optimizer, lr=1e30), schedule=Schedule(warmup_steps=0), patience=2)
    with pytest.raises(ValueError, match=r"^step 4: the 3th in a row .*, and no checkpoint from before step 2 to go back to"):
        learn(data, tmp_path, recipe)
    assert [row["step"] for row in skipped(tmp_path)] == [2, 3, 4]
    assert all(row["samples"] for row in skipped(tmp_path))
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text  # which is no JSON
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2, 3]


def test_a_spike_is_left_out() -> None:
    watch = LossGuard(3.0, 1, 2, samples=lambda number: [])
    assert all(watch.accepts(step, 1.0, 1.0) for step in range(20))
    assert not watch.accepts(21, 3.1, 1.0)
    assert not watch.alarmed
    again = LossGuard(3.0, 1, 2, samples=lambda number: [], state=watch.state)
    assert not again.accepts(22, 4.0, 1.0)
    assert again.alarmed
    assert watch.accepts(22, 2.9, 1.0)
    assert watch.state["since"] is None
