"""Which models are served, under which names: only folders that bring no code, and weights in memory once."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl, load
from mplug_owl.model.locate import locate, standing_on
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.quantised import Quantisation
from mplug_owl.model.small_weights import INT8, PackedLinear, pack

CONFIGS = "*config*.json"
FIRST = Conversation(()).said("user", "Who?")
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


def open_models(
    models: Mapping[str, str], device: str | None, dtype: str, quantize: Quantisation | None = None
) -> dict[str, Owl]:
    """The models, each ready to answer as in `owl chat`. What several have alike, such as a base's weights, is held once.

    Args:
        models: Where they are, by the names that clients ask for.
        device: Where they go; None takes the best there is.
        dtype: What weights are kept in.
        quantize: Keep the language models' linear layers in 8 or 4 bits. These are held by each model itself.

    Raises:
        UserError: There is no such model, or its folder is not safe to open for strangers.
    """
    if quantize is not None and dtype == INT8:
        raise UserError(
            f"give one of them: --dtype int8 is quickest on a CPU, --quantize {quantize} saves memory on any device"
        )
    owls: dict[str, Owl] = {}
    for name, path in models.items():
        where = locate(path)
        refuse_unsafe(where)
        for base in standing_on(where)[1:]:
            refuse_unsafe(base)
        owl = load(where, device, dtype, quantize)
        owl.processor.encode(FIRST, reply=True)  # a chat template that cannot be used is said now, and not to a client
        share_weights(owl, list(owls.values()))
        owls[name] = owl
    pack_shared([owl.model for owl in owls.values()])
    return owls


def pack_shared(models: Sequence[MplugOwlForConditionalGeneration]) -> None:
    """Lay bf16 weights out for a CPU, as `owl chat` does; those that several models share once for all of them."""
    addresses = [
        {name: weight.data_ptr() for name, weight in model.named_parameters(remove_duplicate=False)} for model in models
    ]
    for index, model in enumerate(models):
        pack(model)
        packed = [name for name, module in model.named_modules() if isinstance(module, PackedLinear)]
        for name in packed:
            weight = f"{name}.weight"
            for other, theirs in zip(models[:index], addresses, strict=False):
                if theirs.get(weight) == addresses[index][weight]:
                    model.set_submodule(name, other.get_submodule(name))
                    break


def refuse_unsafe(where: str | os.PathLike[str]) -> None:
    """Raises UserError where a model's folder has weights that may hold code, or names code to be run. Hub ids are not read."""
    folder = Path(where)
    if not folder.is_dir():
        return
    for pattern in PICKLED:
        if found := next(folder.glob(pattern), None):
            raise UserError(f"{found}: a pickled file may hold code; owl serve opens safetensors alone (see owl convert)")
    for file in sorted(folder.glob(CONFIGS)):
        try:
            values = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
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
