"""The range of each value of a recipe that PyTorch, peft or numpy would refuse in words of their own, or misunderstand."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mplug_owl.errors import UserError

if TYPE_CHECKING:
    from mplug_owl.train.recipe import Recipe


def check_ranges(recipe: Recipe) -> None:
    """Raises UserError that names the field, its value and what it may be."""
    if not recipe.name.strip():
        raise UserError(f"name is {recipe.name!r}; it must be a word, for the run's folder is called by it")
    if recipe.modules.vocabulary is not None and recipe.modules.vocabulary < 1:
        raise UserError(f"modules.vocabulary is {recipe.modules.vocabulary}; it must be 1 or more, or none")
    _check_optimizer(recipe)
    _check_encoding(recipe)
    for name in ("rank", "alpha"):
        if getattr(recipe.lora, name) < 1:
            raise UserError(f"lora.{name} is {getattr(recipe.lora, name)}; it must be 1 or more")
    if not 0 <= recipe.lora.dropout < 1:
        raise UserError(f"lora.dropout is {recipe.lora.dropout}; it must be 0 or more and below 1")
    for name in ("workers", "seed", "patience", "rollbacks", "order_in_memory"):
        if getattr(recipe, name) < 0:
            raise UserError(f"{name} is {getattr(recipe, name)}; it must be 0 or more")
    if recipe.seed >= 2**63:
        raise UserError(f"seed is {recipe.seed}; it must be below 2**63, as PyTorch's are")
    if not 0 <= recipe.max_bad_share <= 1:
        raise UserError(f"max_bad_share is {recipe.max_bad_share}; it must be between 0 and 1")
    for name, least in (("spike", 1), ("tflops", 0), ("grace_seconds", 0)):
        if (value := getattr(recipe, name)) is not None and value <= least:
            raise UserError(f"{name} is {value}; it must be above {least}, or none")


def check_used(recipes: Collection[Recipe], settings: Iterable[str]) -> None:
    """Raises UserError for a setting, such as "lora.rank=16", that none of the recipes reads, for they train otherwise."""
    tunings = [vars(recipe.trainable) for recipe in recipes]
    for setting in settings:
        field, _, value = setting.partition("=")
        outer, _, name = field.strip().rpartition(".")
        if outer == "lora" and not any("lora" in tuning.values() for tuning in tunings):
            raise UserError(f"--set {setting}: nothing learns by LoRA here; set trainable.language=lora too")
        learns = value.strip().lower() == "none" or any(tuning.get(name) != "frozen" for tuning in tunings)
        if outer == "optimizer.rates" and not learns:
            raise UserError(f"--set {setting}: {name} is frozen here and has no rate; set trainable.{name} too")


def check_types(part: Any, path: str = "") -> None:
    """What `--set` reads by its type may come from Python as anything: another word than those that are known is taken for one
    of them, and a text in a tuple's place for its letters. A number that is none passes every comparison.

    A value is read as recipe.json will hold it, so a list may stand for a tuple and a path for a text.
    """
    for name, hint in get_type_hints(type(part)).items():
        value, field = getattr(part, name), f"{path}{name}"
        if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
            check_types(value, f"{field}.")
            continue
        known = [word for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for word in get_args(kind)]
        for one in value if isinstance(value, tuple) else (value,):
            if known and one is not None and one not in known:
                raise UserError(f"{field} is {one!r}; it must be one of {', '.join(map(str, known))}")
            if isinstance(one, float) and not math.isfinite(one):
                raise UserError(f"{field} is {one}; it must be a {'number' if math.isnan(one) else 'finite number'}")
        if not _is_of(value, hint):
            raise UserError(f"{field} is {value!r:.80}; it must be {inspect.formatannotation(hint)}")


def _is_of(value: Any, hint: Any) -> bool:
    if is_dataclass(hint) or get_origin(hint) is Callable:
        return get_origin(hint) is Callable and callable(value)
    try:
        _reader(hint).validate_json(json.dumps(value, default=str), strict=True)
    except (ValidationError, TypeError, ValueError):  # of json: keys that are no text, a list within itself
        return False
    return True


@cache
def _reader(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _check_optimizer(recipe: Recipe) -> None:
    optimizer, schedule = recipe.optimizer, recipe.schedule
    rates = {"lr": optimizer.lr, **{f"rates.{name}": rate for name, rate in vars(optimizer.rates).items()}}
    for name, rate in rates.items():
        if rate is not None and rate <= 0:
            raise UserError(f"optimizer.{name} is {rate}; it must be above 0, and trainable says what is frozen")
    if optimizer.eps <= 0:
        raise UserError(f"optimizer.eps is {optimizer.eps}; it must be above 0")
    if not all(0 <= beta < 1 for beta in optimizer.betas):
        raise UserError(f"optimizer.betas is {optimizer.betas}; both must be 0 or more and below 1")
    least = {
        "optimizer.weight_decay": optimizer.weight_decay,
        "schedule.warmup_steps": schedule.warmup_steps,
        "schedule.min_lr": schedule.min_lr,
    }
    for name, value in least.items():
        if value < 0:
            raise UserError(f"{name} is {value}; it must be 0 or more")
    if schedule.min_lr > optimizer.lr:  # the rate would rise to the end
        raise UserError(f"schedule.min_lr is {schedule.min_lr}; it must be at most optimizer.lr, {optimizer.lr}")
    if recipe.clip is not None and recipe.clip <= 0:
        raise UserError(f"clip is {recipe.clip}; it must be above 0, or none")


def _check_encoding(recipe: Recipe) -> None:
    encoding = recipe.encoding
    if encoding.max_tokens < 2:
        raise UserError(f"encoding.max_tokens is {encoding.max_tokens}; it must be 2 or more")
    if encoding.pack is not None and encoding.pack < encoding.max_tokens:
        least = f"encoding.max_tokens, {encoding.max_tokens}, or more"
        raise UserError(f"encoding.pack is {encoding.pack}; it must be {least}")
    if encoding.crop is not None and not 0 < encoding.crop <= 1:
        raise UserError(f"encoding.crop is {encoding.crop}; it must be above 0 and at most 1, or none")
