"""Resuming: the recipe that a run was started with, in today's names or those of before, and where it continues."""

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl.errors import UserError, WriteError
from mplug_owl.train import checkpoint, metrics, resume
from mplug_owl.train.checkpoint import MANIFEST, SEAL
from mplug_owl.train.recipe import Recipe, as_json, completed, from_json, override, renamed
from mplug_owl.train.resume import as_started, begin, saved_values, with_what_was_done, write_recipe
from tests.school import PowerCutError, initial_model, killed_at, lesson, lessons, quietly


def as_of_0_1(values: dict) -> dict:
    """The values of a recipe.json as version 0.1 wrote them."""
    old = dict(values)
    schedule = old.pop("schedule")
    for name in ("epochs", "image_root", "threads"):
        del old[name]
    old["learners"], old["start"] = old.pop("trainable"), old.pop("init_from")
    old["grace"], old["silence_seconds"] = old.pop("grace_seconds"), old.pop("process_timeout")
    old["optimizer"] = {**old["optimizer"], **schedule, "clip": old.pop("clip")}
    return old


RECIPE = override(lesson(), ["steps=4", "save_every=2", "schedule.min_lr=1e-4", "clip=0.5", "grace_seconds=20"])


def test_values_of_0_1_are_read_under_todays_names() -> None:
    old = as_of_0_1(as_json(RECIPE))
    assert set(old["optimizer"]) == {"lr", "warmup_steps", "weight_decay", "betas", "eps", "min_lr", "clip", "rates", "muon"}
    assert from_json(lesson(), old) == replace(RECIPE, modules=lesson().modules)
    new = as_json(RECIPE)
    assert renamed(old) == {name: value for name, value in new.items() if name not in ("epochs", "image_root", "threads")}
    assert renamed(new) == new


def test_a_run_of_0_1_is_resumed(tmp_path: Path) -> None:
    """Its recipe.json and its checkpoint's manifest have the old names."""
    sources = lessons(tmp_path / "data")

    quietly(RECIPE, initial_model(RECIPE, sources), sources, tmp_path / "whole")
    with pytest.raises(PowerCutError):
        quietly(RECIPE, initial_model(RECIPE, sources), sources, tmp_path / "run", report=killed_at(3))
    saved = tmp_path / "run" / "recipe.json"
    saved.write_text(json.dumps(as_of_0_1(json.loads(saved.read_text()))))
    found, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    manifest = json.loads((found.folder / MANIFEST).read_text())
    (found.folder / MANIFEST).write_text(json.dumps({**manifest, "recipe": as_of_0_1(manifest["recipe"])}))
    (found.folder / SEAL).write_text(checkpoint._seal(found.folder))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "metrics.jsonl").write_text(lines.replace("supervised_tokens", "learned_tokens"))

    notes: list[str] = []
    started = as_started(lesson(), tmp_path / "run", (), notes.append)
    assert started == replace(RECIPE, modules=lesson().modules)
    assert notes == [
        f"taken from {saved}: clip: 0.5 then, 1.0 now; grace_seconds: 20.0 then, 30.0 now; save_every: 2 then, None now; "
        "schedule.min_lr: 0.0001 then, 0.0 now; steps: 4 then, 6 now"
    ]
    quietly(started, initial_model(started, sources), sources, tmp_path / "run", resume=True, note=notes.append)
    assert notes[1:] == [f"{tmp_path / 'run'}: resuming after step 2"]
    rows = [metrics.read(tmp_path / run / "metrics.jsonl") for run in ("whole", "run")]
    exact = ("step", "loss", "grad_norm", "supervised_tokens")
    assert [[row[name] for name in exact] for row in rows[1]] == [[row[name] for name in exact] for row in rows[0]]


def test_a_run_from_before_a_field_is_resumed_and_the_field_is_its_default(tmp_path: Path) -> None:
    """`order` came after 0.1, and so did fields of the inner values; what they do by default is what was done before."""
    sources = lessons(tmp_path / "data")
    recipe = lesson(save_every=2)
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run", ignore=shutil.ignore_patterns("model", "step-00000004"))
    saved = tmp_path / "run" / "recipe.json"
    found, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    manifest = json.loads((found.folder / MANIFEST).read_text())
    started = json.loads(saved.read_text())
    for values in (started, manifest["recipe"]):
        del values["order"], values["compile"], values["lora"]["on"], values["encoding"]["weigh"]
    saved.write_text(json.dumps(started))
    (found.folder / MANIFEST).write_text(json.dumps(manifest))
    (found.folder / SEAL).write_text(checkpoint._seal(found.folder))
    notes: list[str] = []
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", resume=True, note=notes.append)
    assert notes == [f"{tmp_path / 'run'}: resuming after step 2"]
    whole, run = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], run[name]) for name in whole)
    other = override(recipe, ["order=blocks", "encoding.weigh=answers"])
    with pytest.raises(UserError, match=r"encoding\.weigh: tokens then, answers now; order: random then, blocks now"):
        begin(tmp_path / "run", other, True, print)


def test_a_run_from_before_some_fields_keeps_what_it_did() -> None:
    """Chat formats and computed orders have become the default since; half a run in another would be neither."""
    recipe = lesson()
    values = as_json(recipe)
    assert with_what_was_done(recipe, values) == with_what_was_done(recipe, None) == recipe
    assert recipe.modules.prompt == "auto"
    del values["modules"]["prompt"], values["order_in_memory"]
    before = with_what_was_done(recipe, values)
    assert (before.modules.prompt, before.order_in_memory) == ("owl", 2**20)
    assert completed(values) == as_json(before)


@pytest.mark.parametrize("given", [(), ("steps", "clip")])
def test_what_the_command_line_says_is_not_noted(given: tuple[str, ...], tmp_path: Path) -> None:
    write_recipe(tmp_path, RECIPE)
    notes: list[str] = []
    as_started(lesson(), tmp_path, given, notes.append)
    assert ("steps: 4 then, 6 now" in notes[0]) == ("steps" not in given)
    assert "save_every: 2 then, None now" in notes[0]


def test_without_a_run_the_recipe_is_as_it_was(tmp_path: Path) -> None:
    notes: list[str] = []
    assert as_started(RECIPE, tmp_path / "none", (), notes.append) is RECIPE
    assert saved_values(tmp_path / "none") is None
    write_recipe(tmp_path, RECIPE)
    assert as_started(RECIPE, tmp_path, (), notes.append) == RECIPE
    assert notes == []


@pytest.mark.parametrize("text", ['{"steps": ', '{"steps": "few"}', "17", "[1]", '{"steps": 3, "epochs": 2}', b"\xff"])
def test_a_damaged_recipe_is_named(text: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"recipe\.json: not the recipe of a run \("):
        as_started(lesson(), tmp_path, (), print)


def epochs(count: float) -> Recipe:
    return lesson(steps=None, epochs=count, save_every=2)


def test_epochs_become_steps_that_are_said_saved_and_resumed(tmp_path: Path) -> None:
    """Eight records, four a step. Whoever resumes may say the epochs again."""
    sources, notes = lessons(tmp_path / "data"), []
    quietly(epochs(1.5), initial_model(epochs(1.5), sources), sources, tmp_path / "run", note=notes.append)
    assert notes == ["1.5 epochs of 8 records are 3 steps of 4 samples"]
    values = saved_values(tmp_path / "run")
    assert (values["steps"], values["epochs"]) == (3, None)
    assert metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 3

    started = as_started(lesson(save_every=2), tmp_path / "run", ("epochs",), notes.append)
    assert (started.steps, started.epochs) == (3, None)
    again = override(started, ["epochs=1.5"])
    assert (again.steps, again.epochs) == (None, 1.5)
    quietly(again, initial_model(again, sources), sources, tmp_path / "run", resume=True, note=notes.append)
    assert notes[-1] == f"{tmp_path / 'run'}: resuming after step 2"
    with pytest.raises(UserError, match=r"it differs in steps: 3 then, 4 now$"):
        quietly(epochs(2), initial_model(epochs(2), sources), sources, tmp_path / "run", resume=True)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="holds a run already; choose another --out, or continue it by --resume"):
        begin(tmp_path, RECIPE, False, print)
    assert not (tmp_path / "recipe.json").exists()


def test_data_of_another_size_would_come_in_another_order(tmp_path: Path) -> None:
    recipe, sources = override(lesson(), ["steps=2", "save_every=1"]), lessons(tmp_path / "data")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    chats = tmp_path / "data" / "chats.jsonl"
    lines = chats.read_text("utf-8").splitlines(keepends=True)
    chats.write_text("".join((*lines, lines[0])), encoding="utf-8")
    grown = lessons(tmp_path / "data")
    with pytest.raises(UserError, match=rf"chats\.jsonl: has {len(lines) + 1} records and had {len(lines)} when .*/run was"):
        quietly(recipe, initial_model(recipe, grown), grown, tmp_path / "run", resume=True)


def test_before_its_first_checkpoint_another_recipe_is_refused_too(tmp_path: Path) -> None:
    """A finished run may have no checkpoint, and its metrics and its model would be overwritten."""
    write_recipe(tmp_path, RECIPE)
    with pytest.raises(UserError, match="was trained under another recipe; it differs in seed: 0 then, 3 now"):
        begin(tmp_path, replace(RECIPE, seed=3), True, print)
    assert saved_values(tmp_path)["seed"] == 0
    assert begin(tmp_path, replace(RECIPE, workers=3), True, print) is None


HOLDER = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('holds', flush=True); input()"


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused before it writes anything; a kill of the first is enough for another."""
    recipe, sources, out = lesson(steps=1), lessons(tmp_path / "data"), tmp_path / "run"
    monkeypatch.setattr(resume, "PATIENCE", 0.1)
    out.mkdir()
    command = [sys.executable, "-c", HOLDER, str(out / ".training")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(UserError, match=r"run: another process trains into it; wait for its end, or choose another --out$"):
            quietly(recipe, initial_model(recipe, sources), sources, out)
        assert [path.name for path in out.iterdir()] == [".training"]
        holder.kill()
    quietly(recipe, initial_model(recipe, sources), sources, out)
    assert not (out / ".training").exists()


def test_a_disk_that_takes_nothing_is_what_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that the lock of a killed run, left there before, cannot be locked or removed."""

    def refuse(*unused: object, **also: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / ".training").touch()
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WriteError, match=r"^recipe\.json could not be written$"), resume.held(tmp_path):
        raise WriteError("recipe.json could not be written")
