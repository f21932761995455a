"""Resuming a run: the recipe it was started with, and the checkpoint it continues from."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mplug_owl.errors import UserError
from mplug_owl.train import checkpoint
from mplug_owl.train.checkpoint import Checkpoint
from mplug_owl.train.recipe import BEFORE, Recipe, as_json, completed, differences, from_json, renamed
from mplug_owl.writing import replacing, sole_writer, writing

# Fields that a resumed run may have changed: they say how a run is made and watched, not what it computes.
FREE_TO_CHANGE = (
    "workers",
    "threads",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "trackers",
    "tflops",
    "max_bad_share",
    "grace_seconds",
    "process_timeout",
    "index",
)


# Seconds after which data workers of a killed run have noticed; older filelocks leave its hold to them.
PATIENCE = 6.0


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Within it nobody else trains into this folder: srun without torchrun starts as many runs as there are tasks.

    A hold ends with its process, however that ends. Where a file system knows none, nobody is refused. Raises UserError where
    another process has it.
    """
    lock = out / ".training"
    with sole_writer(lock, f"{out}: another process trains into it; wait for its end, or choose another --out", PATIENCE):
        try:
            yield
        finally:
            with suppress(OSError):  # where nothing can be removed, nothing could be written, which is what to say
                lock.unlink()


def saved_values(out: Path) -> dict[str, Any] | None:
    """What the recipe.json of a run holds, None where there is none. Raises UserError where it is damaged."""
    file = out / "recipe.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _no_recipe(file, error) from error
    if not isinstance(values, dict):
        raise _no_recipe(file, f"it holds a {type(values).__name__}")
    return renamed(values)


def as_started(recipe: Recipe, out: Path, given: Collection[str], note: Callable[[str], None]) -> Recipe:
    """The recipe with the values that the run in `out` was started with, or as it is where there is no run.

    Notes which values differ, but for the fields that are `given` on the command line, which come after.
    Raises UserError where recipe.json does not fit a recipe.
    """
    values, file = saved_values(out), out / "recipe.json"
    if values is None:
        return recipe
    try:
        started = from_json(with_what_was_done(recipe, values), values)
        lines = differences(as_json(started), as_json(recipe))
    except (UserError, ValidationError, TypeError) as error:
        raise _no_recipe(file, str(error).splitlines()[0]) from error
    if taken := [line for line in lines if line.partition(":")[0] not in given]:
        note(f"taken from {file}: {'; '.join(taken)}")
    return started


def with_what_was_done(recipe: Recipe, values: Mapping[str, Any] | None) -> Recipe:
    """The recipe with what runs did `BEFORE` there were some fields, where a run's recipe.json does not name these."""
    if values is None:
        return recipe
    absent = {(kind, name): done for (kind, name), done in BEFORE.items() if name not in _part(values, kind)}
    modules = {name: done for (kind, name), done in absent.items() if kind == "Modules"}
    others = {name: done for (kind, name), done in absent.items() if kind == "Recipe"}
    return replace(recipe, modules=replace(recipe.modules, **modules), **others)


def _part(values: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return values.get("modules", {}) if kind == "Modules" else values


def begin(out: Path, recipe: Recipe, resume: bool, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint of the run in `out` where it is resumed; None starts at the first step.

    A run that starts writes its recipe.json. Raises UserError where `out` holds a run that is not to be resumed, or one of
    another recipe.
    """
    if not resume and (out / "metrics.jsonl").exists():
        raise UserError(f"{out}: holds a run already; choose another --out, or continue it by --resume")
    found, notes = checkpoint.newest(out / "checkpoints") if resume else (None, [])
    for sentence in notes:
        note(sentence)
    before = checkpoint.recipe_of(found) if found is not None else saved_values(out) if resume else None
    if before is not None and (different := differences(_numbers(completed(before)), _numbers(as_json(recipe)))):
        raise UserError(f"{out}: was trained under another recipe; it differs in {'; '.join(different)}")
    if found is None:
        if resume:
            note(f"{out}: no whole checkpoint; starting from the beginning")
        write_recipe(out, recipe)
        return None
    note(f"{out}: resuming after step {found.step}")
    return found


def write_recipe(out: Path, recipe: Recipe) -> None:
    """Write recipe.json into a run's folder. Raises WriteError where there is no room."""
    with writing(str(out / "recipe.json")):
        out.mkdir(parents=True, exist_ok=True)
        with replacing(out / "recipe.json") as file:
            file.write_text(json.dumps(as_json(recipe), indent=1), encoding="utf-8")


def _numbers(recipe: dict[str, object]) -> dict[str, object]:
    """The recipe without what changes no number of a run."""
    return {name: value for name, value in recipe.items() if name not in FREE_TO_CHANGE}


def _no_recipe(file: Path, problem: object) -> UserError:
    return UserError(f"{file}: not the recipe of a run ({problem})")
