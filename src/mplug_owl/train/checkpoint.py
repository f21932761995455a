"""Checkpoints: all that a run needs to go on, written so that a half-written one is never taken for whole.

A folder `step-00000100` holds what learns, the optimiser's state and a manifest. The manifest, with the SHA-256 of every
file, is written last, its own digest beside it, and the folder gets its name after that, so a name is a promise.
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

from mplug_owl.train.disk import writing
from mplug_owl.train.recipe import renamed
from mplug_owl.train.sharded import full_tensor, to_shard

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
    """Copies of all that a checkpoint holds, so that training can go on while it is written.

    Frozen weights are not in it: they have not changed. `state` is what else the run must remember.
    """

    step: int
    learned: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    recipe: dict[str, Any]
    state: dict[str, Any]


def snapshot(
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, Any],
    state: dict[str, Any],
    keep: bool = True,
) -> Snapshot:
    """Copy what learns and the optimiser's state to the CPU's memory.

    Sharded weights are put together, which all processes do at once; those that will not write need not `keep` anything.
    """
    learned = {name: _copy(parameter, keep) for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Snapshot(step, learned, _copy(optimizer.state_dict(), keep), recipe, state)


class Writer:
    """Writes snapshots in the background, one at a time. `problems` tells what went wrong since it was last asked.

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
        """Until what was begun is on the disk."""
        if self._writing is None:
            return
        try:
            self._writing.result()
        except OSError as error:
            self._problems.append(f"{error}; the one before it stays")
        self._writing = None

    def problems(self) -> list[str]:
        """Sentences about checkpoints that could not be written. The one before each is still whole."""
        if self._writing is not None and self._writing.done():
            self.wait()
        told, self._problems = self._problems, []
        return told


def write(folder: Path, taken: Snapshot, keep: int) -> Path:
    """Write `folder/step-...` and remove all but the newest `keep`. Raises Unwritten with nothing half-written left behind."""
    target = folder / f"step-{taken.step:08d}"
    partial = folder / f".{target.name}.partial"
    try:
        with writing(f"checkpoint of step {taken.step}"):
            return _write(target, partial, taken, keep)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(target: Path, partial: Path, taken: Snapshot, keep: int) -> Path:
    folder = target.parent
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(taken.learned, partial / WEIGHTS)
    torch.save(taken.optimizer, partial / OPTIMIZER)
    digests = {file.name: _digest(file) for file in (partial / WEIGHTS, partial / OPTIMIZER)}
    manifest = {"step": taken.step, "recipe": taken.recipe, "state": taken.state, "sha256": digests}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    (partial / SEAL).write_text(_seal(partial), encoding="utf-8")
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    _sync(folder)
    for old in _named(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def newest(folder: Path, fits: Callable[[int], bool] = lambda step: True) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are as they were written, and a sentence about each damaged one set aside.

    Of those alone whose step `fits`.
    """
    notes: list[str] = []
    for candidate in reversed(_named(folder)):
        if not fits(int(candidate.name.removeprefix("step-"))):
            continue
        if (problem := _problem(candidate)) is None:
            return Checkpoint(_manifest(candidate)["step"], candidate), notes
        aside = candidate.with_name(candidate.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        candidate.rename(aside)
        notes.append(f"{candidate.name}: {problem}; set aside as {aside.name}")
    return None, notes


def recipe_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The recipe that a checkpoint was written under."""
    return renamed(_manifest(checkpoint.folder)["recipe"])


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What else the run remembered."""
    return _manifest(checkpoint.folder)["state"]


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put what was learned and the optimiser's state back. Raises ValueError where the model learns something else."""
    saved = load_file(checkpoint.folder / WEIGHTS)
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if different := sorted(saved.keys() ^ learned.keys()):
        raise ValueError(f"{checkpoint.folder}: holds other weights than this recipe learns, first {different[0]}")
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(to_shard(saved[name], parameter))
    averages = torch.load(checkpoint.folder / OPTIMIZER, weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, held in averages.get("state", {}).items():  # Muon beside AdamW has none of its own; it is not for shares
        for name, value in held.items():
            if value.shape == parameters[place].shape:  # a count of steps has none and is nobody's to share
                held[name] = to_shard(value, parameters[place])
    optimizer.load_state_dict(averages)


def _named(folder: Path) -> list[Path]:
    """Every checkpoint that has its name, oldest first; those set aside as damaged have another."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())


def _problem(folder: Path) -> str | None:
    try:
        if (folder / SEAL).read_text(encoding="utf-8") != _seal(folder):
            return f"{MANIFEST} is damaged"
        for name, digest in _manifest(folder)["sha256"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _digest(folder / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError) as error:
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
        together = full_tensor(value.detach())
        return together.to("cpu", copy=True) if keep else None
    if isinstance(value, dict):
        return {key: _copy(inner, keep) for key, inner in value.items()}
    return [_copy(inner, keep) for inner in value] if isinstance(value, list) else value
