"""Checkpoints: kept in turn, and only what learns is in them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mplug_owl.errors import WriteError
from mplug_owl.train import checkpoint


def student(*frozen: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    for place in frozen:
        model[place].requires_grad_(False)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: dict, keep: int) -> Path:
    return checkpoint.write(folder, checkpoint.snapshot(step, model, optimizer, recipe, {"seen": step}), keep)


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save(tmp_path, step, *student(), {}, keep=2)
    assert written(tmp_path) == ["step-00000010", "step-00000011"]
    found, notes = checkpoint.newest(tmp_path)
    assert (found.step, notes) == (11, [])


def test_one_that_a_signal_asked_for_drives_out_none_to_go_back_to(tmp_path: Path) -> None:
    for step in (50, 100, 130, 150, 160, 170):
        save(tmp_path, step, *student(), {"save_every": 50}, keep=2)
    assert written(tmp_path) == ["step-00000100", "step-00000150", "step-00000170"]


def test_a_damaged_one_is_not_counted_among_the_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, *student(), {}, keep=2)
    (tmp_path / "step-00000002" / "optimizer.pt").unlink()
    found, (note,) = checkpoint.newest(tmp_path)
    assert found.step == 1
    assert note == "step-00000002: optimizer.pt is missing; renamed to step-00000002.damaged"
    save(tmp_path, 2, *student(), {}, keep=2)
    assert written(tmp_path) == ["step-00000001", "step-00000002", "step-00000002.damaged"]


def test_one_that_was_being_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(WriteError, match=r"^checkpoint of step 1 could not be written \(No space left on device\)$"):
        save(tmp_path, 1, *student(), {}, keep=2)
    assert checkpoint.newest(tmp_path) == (None, [])
    assert list(tmp_path.iterdir()) == []


def test_what_is_frozen_is_not_in_it(tmp_path: Path) -> None:
    saved = save(tmp_path, 1, *student(0), {}, keep=1)
    assert load_file(saved / "learned.safetensors").keys() == {"1.weight", "1.bias"}


def test_it_puts_weights_and_averages_back(tmp_path: Path) -> None:
    model, optimizer = student(0)
    save(tmp_path, 5, model, optimizer, {"name": "lesson"}, keep=1)
    found, _ = checkpoint.newest(tmp_path)
    assert checkpoint.recipe_of(found) == {"name": "lesson"}
    assert checkpoint.state_of(found) == {"seen": 5}
    other, its_optimizer = student(0)
    checkpoint.restore(found, other, its_optimizer)
    assert torch.equal(other[1].weight, model[1].weight)
    ours, theirs = (one.state_dict()["state"][0]["exp_avg_sq"] for one in (optimizer, its_optimizer))
    assert torch.equal(ours, theirs)


def test_one_of_other_weights_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, *student(0), {}, keep=1)
    found, _ = checkpoint.newest(tmp_path)
    with pytest.raises(ValueError, match=r"holds other weights than this recipe learns, first 0\.bias"):
        checkpoint.restore(found, *student(1))


def test_training_goes_on_while_it_is_written(tmp_path: Path) -> None:
    model, optimizer = student()
    before = model[0].weight.detach().clone()
    writer = checkpoint.Writer(tmp_path, keep=1)
    writer.save(checkpoint.snapshot(1, model, optimizer, {}, {}))
    with torch.no_grad():
        model[0].weight.add_(1)
    writer.wait()
    assert torch.equal(load_file(tmp_path / "step-00000001" / "learned.safetensors")["0.weight"], before)


def test_a_full_disk_leaves_the_one_before_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = checkpoint.Writer(tmp_path, keep=2)
    writer.save(checkpoint.snapshot(1, *student(), {}, {}))
    writer.wait()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    writer.save(checkpoint.snapshot(2, *student(), {}, {}))
    writer.wait()
    (problem,) = writer.problems()
    told = "checkpoint of step 2 could not be written ([Errno 28] No space left on device); the one before it stays"
    assert problem == told
    assert writer.problems() == []
    assert written(tmp_path) == ["step-00000001"]
    assert checkpoint.newest(tmp_path)[0].step == 1
