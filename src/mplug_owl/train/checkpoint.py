"""Checkpoints: all that a run needs to continue, written so that a half-written one is never taken for whole.

A folder `step-00000100` holds what learns, the optimiser's state and a manifest. The manifest, with the SHA-256 of every
file, is written last, its own digest beside it, and the folder gets its name after that. So a folder of that name is whole.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mplug_owl.errors import UserError, WriteError
from mplug_owl.train.recipe import renamed
from mplug_owl.train.sharded import full_tensor, to_shard
from mplug_owl.writing import replacing, writing

WEIGHTS, OPTIMIZER, MANIFEST = "learned.safetensors", "optimizer.pt", "manifest.json"
# One line as sha256sum writes it, so `sha256sum -c` reads it.
SEAL = "manifest.sha256"


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint: the steps done when it was written, and its folder."""

    step: int
    folder: Path


@dataclass(frozen=True)
class Snapshot:
    """Copies of all that a checkpoint holds, so that training can continue while it is written.

    Frozen weights are not in it: they have not changed. `state` is what else the run must remember.
    """

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    recipe: dict[str, object]
    state: dict[str, object]


def snapshot(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, object],
    state: dict[str, object],
    keep: bool = True,
) -> Snapshot:
    """Copy what learns and the optimiser's state to the CPU's memory.

    All processes gather sharded weights at once; those that will not write need not `keep` anything.
    """
    weights = {name: _copy(parameter, keep) for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Snapshot(step, weights, _copy(optimizer.state_dict(), keep), recipe, state)


class Writer:
    """Writes snapshots in the background, one at a time. `problems` are what went wrong since they were last asked for.

    `seconds` is how long the last one took.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[Path] | None = None
        self._problems: list[str] = []
        self.seconds = 0.0

    def save(self, taken: Snapshot) -> None:
        """Begin to write; waits for the one before, so memory never holds more than two."""
        self.wait()
        self._writing = self._thread.submit(self._write, taken)

    def _write(self, taken: Snapshot) -> Path:
        began = time.perf_counter()
        written = write(self.folder, taken, self.keep)
        self.seconds = time.perf_counter() - began
        return written

    def wait(self) -> None:
        """Wait until what was begun is on the disk."""
        if self._writing is None:
            return
        try:
            self._writing.result()
        except WriteError as error:
            self._problems.append(f"{error}; the one before it stays")
        self._writing = None

    def problems(self) -> list[str]:
        """Sentences about checkpoints that could not be written. The one before each is still whole."""
        if self._writing is not None and self._writing.done():
            self.wait()
        problems, self._problems = self._problems, []
        return problems


def write(folder: Path, taken: Snapshot, keep: int) -> Path:
    """Write `folder/step-...` and remove all but the newest `keep`. Raises WriteError with nothing half-written left over.

    One that was written because somebody stopped the run stays while it is the newest, and drives out none that the run
    may go back to.
    """
    target = folder / f"step-{taken.step:08d}"
    with writing(f"checkpoint of step {taken.step}"):
        folder.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in folder.glob(".*.partial"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        with replacing(target) as partial:
            _write_files(partial, taken)
        _sync(folder)
        for old in _outdated(folder, keep, taken.recipe.get("save_every")):
            shutil.rmtree(old)
    return target


def _write_files(folder: Path, taken: Snapshot) -> None:
    folder.mkdir()
    save_file(taken.weights, folder / WEIGHTS)
    torch.save(taken.optimizer, folder / OPTIMIZER)
    digests = {file.name: _digest(file) for file in (folder / WEIGHTS, folder / OPTIMIZER)}
    manifest = {"step": taken.step, "recipe": taken.recipe, "state": taken.state, "sha256": digests}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    (folder / SEAL).write_text(_seal(folder), encoding="utf-8")
    for file in folder.iterdir():
        _sync(file)
    _sync(folder)


def newest(folder: Path, fits: Callable[[int], bool] = lambda step: True) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are as they were written, and a sentence about each damaged one.

    Only checkpoints whose step satisfies `fits` are looked at. A damaged one is renamed to step-….damaged.
    """
    notes: list[str] = []
    for candidate in reversed(_named(folder)):
        if not fits(_step(candidate)):
            continue
        if (problem := _problem(candidate)) is None:
            return Checkpoint(_manifest(candidate)["step"], candidate), notes
        damaged = candidate.with_name(candidate.name + ".damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        candidate.rename(damaged)
        notes.append(f"{candidate.name}: {problem}; renamed to {damaged.name}")
    return None, notes


def recipe_of(checkpoint: Checkpoint) -> dict[str, object]:
    """The recipe that a checkpoint was written under."""
    return renamed(_manifest(checkpoint.folder)["recipe"])


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What else the run remembered."""
    return _manifest(checkpoint.folder)["state"]


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put what was learned and the optimiser's state back. Raises UserError where the model learns something else."""
    saved = load_file(checkpoint.folder / WEIGHTS)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if different := sorted(saved.keys() ^ weights.keys()):
        raise UserError(f"{checkpoint.folder}: holds other weights than this recipe learns, first {different[0]}")
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(to_shard(saved[name], parameter))
    averages = torch.load(checkpoint.folder / OPTIMIZER, weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, held in averages.get("state", {}).items():  # a combined optimiser has none of its own, and is never sharded
        for name, value in held.items():
            if value.shape == parameters[index].shape:  # a count of steps has another shape and is never sharded
                held[name] = to_shard(value, parameters[index])
    optimizer.load_state_dict(averages)


def _named(folder: Path) -> list[Path]:
    """Every checkpoint that has its name, oldest first; damaged ones have another."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())


def _outdated(folder: Path, keep: int, every: object) -> list[Path]:
    """All checkpoints but the newest one and the newest `keep` of those that the run wrote by itself, `every` so many steps."""
    named = _named(folder)
    regular = [path for path in named if not isinstance(every, int) or _step(path) % every == 0]
    return [path for path in named[:-1] if path not in regular[-keep:]]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _problem(folder: Path) -> str | None:
    try:
        if (folder / SEAL).read_text(encoding="utf-8") != _seal(folder):
            return f"{MANIFEST} is damaged"
        for name, digest in _manifest(folder)["sha256"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _digest(folder / name) != digest:
                return f"{name} is damaged"
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        return f"cannot be read ({error})"
    return None


def _seal(folder: Path) -> str:
    return f"{_digest(folder / MANIFEST)}  {MANIFEST}\n"


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(value: Any, keep: bool) -> Any:
    if isinstance(value, torch.Tensor):
        full = full_tensor(value.detach())
        return full.to("cpu", copy=True) if keep else None
    if isinstance(value, dict):
        return {key: _copy(inner, keep) for key, inner in value.items()}
    return [_copy(inner, keep) for inner in value] if isinstance(value, list) else value
