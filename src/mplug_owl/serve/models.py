"""Which models are served, under which names: only folders that bring no code, and weights in memory once."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl, load
from mplug_owl.model.locate import base_of, is_adapter, locate

CONFIGS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


def named(models: Sequence[str]) -> dict[str, str]:
    """Models by the names that clients ask for: `NAME=PATH` as it says, anything else by its last part.

    Raises:
        UserError: Two have one name.
    """
    found: dict[str, str] = {}
    for model in models:
        name, given, path = model.partition("=")
        if not given:
            name, path = Path(model.rstrip("/")).name, model
        if not name or not path:
            raise UserError(f"{model}: expected a model, or NAME=MODEL")
        if name in found:
            raise UserError(f"two models are called {name}; name them by NAME=MODEL")
        found[name] = path
    return found


def open_models(models: Mapping[str, str], device: str | None, dtype: str) -> dict[str, Owl]:
    """The models, each ready to answer. What several have alike, such as a base under several adapters, is held once.

    Raises:
        UserError: There is no such model, or its folder is not safe to open for strangers.
    """
    owls: dict[str, Owl] = {}
    for name, path in models.items():
        where = locate(path)
        refuse_unsafe(where)
        if is_adapter(where):
            refuse_unsafe(base_of(where))
        owl = load(where, device, dtype)
        share_weights(owl, list(owls.values()))
        owls[name] = owl
    return owls


def refuse_unsafe(where: str | os.PathLike[str]) -> None:
    """Raises UserError where a model's folder has weights that may hold code, or names code to be run. Hub ids are not read."""
    folder = Path(where)
    if not folder.is_dir():
        return
    for pattern in PICKLED:
        if found := next(folder.glob(pattern), None):
            raise UserError(f"{found}: a pickled file may hold code; owl serve opens safetensors alone (see owl convert)")
    for config in CONFIGS:
        file = folder / config
        try:
            values = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise UserError(f"{file}: damaged; expected JSON") from error
        if _names_code(values):
            raise UserError(f"{file}: auto_map names code of the model's own, which is not run here; take it out")


def share_weights(owl: Owl, others: Sequence[Owl]) -> None:
    """Have a model use the very tensors of others where its own are equal."""
    theirs = [dict(other.model.named_parameters()) for other in others]
    for name, weight in owl.model.named_parameters():
        for weights in theirs:
            other = weights.get(name)
            if other is not None and other.dtype == weight.dtype and torch.equal(other, weight):
                weight.data = other.data
                break


def _names_code(values: object) -> bool:
    if isinstance(values, dict):
        return "auto_map" in values or any(map(_names_code, values.values()))
    return isinstance(values, list) and any(map(_names_code, values))
