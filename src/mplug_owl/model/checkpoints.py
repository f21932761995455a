"""Weights in, checked: the original's names become ours, and nothing is missing, left over or unpickled.

The original's layout differs from ours in names alone, so renamings suffice and load bit for bit.
"""

import json
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from mplug_owl.errors import UserError
from mplug_owl.model.config import MplugOwlConfig

# (the original's name, ours), applied in this order; no pattern matches a name of ours.
RENAMINGS = (
    (r"^query_tokens", "model.abstractor.query_tokens"),
    (r"^vision_model\.encoder\.", "model.vision_tower."),
    (r"^vision_model\.", "model.vision_tower."),
    (r"^abstractor\.encoder\.", "model.abstractor."),
    (r"^abstractor\.", "model.abstractor."),
    (r"\.crossattention\.output\.out_proj\.", ".attention.out_proj."),
    (r"\.crossattention\.output\.", "."),
    (r"\.crossattention\.", "."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.transformer\.word_embeddings_layernorm\.", "model.embedding_norm."),
    (r"^language_model\.(?:model|transformer)\.", "model.language_model."),
)
# And back, likewise in this order; {} is what a language model calls its inside.
ORIGINALS = (
    (r"^model\.abstractor\.query_tokens", "query_tokens"),
    (r"^model\.vision_tower\.layers\.", "vision_model.encoder.layers."),
    (r"^model\.vision_tower\.", "vision_model."),
    (r"^model\.abstractor\.layers\.(\d+)\.", r"abstractor.encoder.layers.\1.crossattention."),
    (r"^model\.abstractor\.", "abstractor."),
    (r"\.crossattention\.(norm2|mlp)\.", r".crossattention.output.\1."),
    (r"\.crossattention\.attention\.out_proj\.", ".crossattention.output.out_proj."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.embedding_norm\.", "language_model.{}.word_embeddings_layernorm."),
    (r"^model\.language_model\.", "language_model.{}."),
)
# The language models that the original was released with.
INSIDES = {"llama": "model", "bloom": "transformer"}
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What peft puts before every name of the model that it has wrapped, and what to do with a checkpoint of such names.
WRAPPED = "base_model.model."
WRAPPED_CHECKPOINT = "a training checkpoint of the original's stage 2, whose weights are peft's; merge it into its base"
# How a file begins that git left for git-lfs to fetch.
_POINTER = b"version https://git-lfs"
_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# What is read only where words are drawn.
_DRAWING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_INNER_WIDTH = re.compile(r"abstractor\..*layers\.0\..*mlp\.w1\.weight$")


def our_name(original: str) -> str:
    """The name in our layout of a weight of the original's."""
    for pattern, ours in RENAMINGS:
        original = re.sub(pattern, ours, original, count=1)
    return original


def original_name(ours: str, language: str) -> str:
    """The name in the original's layout of a weight of ours. Raises UserError for a language model that it can't hold."""
    if language not in INSIDES:
        raise UserError(f"the original's layout holds {' or '.join(INSIDES)} language models, not {language}")
    for pattern, original in ORIGINALS:
        ours = re.sub(pattern, original.format(INSIDES[language]), ours, count=1)
    return ours


def load(
    cls: type[PreTrainedModel], base_load: Callable[..., Any], path: str | os.PathLike[str] | None, *args: object, **kwargs: Any
) -> Any:
    """`PreTrainedModel.from_pretrained` with nothing left to chance; see the model's own docstring."""
    if not kwargs.get("weights_only", True):
        raise ValueError("weights_only=False would run code from a weight file; an owl never does")
    wants_info = kwargs.pop("output_loading_info", False)
    misshapen_too = kwargs.pop("ignore_mismatched_sizes", False)
    config = kwargs.pop("config", None)
    folder = None if path is None else Path(path, kwargs.get("subfolder") or "")
    if folder is not None:
        refuse_pointers(folder)
        refuse_damaged_settings(folder)
    if not isinstance(config, PreTrainedConfig):
        if (source := config if config is not None else path) is None:
            raise ValueError("give a path, or a config and a state_dict")
        config = read_config(source, **hub_options(kwargs))
    config = fit_to_weights(deepcopy(config), folder)
    try:
        # Misshapen weights are let through to be named below, with the others.
        model, info = base_load(path, *args, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    except pickle.UnpicklingError as error:
        raise UserError(_has_code(path)) from error
    except SafetensorError as error:
        raise UserError(_damaged(path, error)) from error
    except (RuntimeError, EOFError):  # of a pickle that was cut short, or of something else
        for file in weight_files(folder) if folder is not None and folder.is_dir() else ():
            read_tensors(file, "meta")  # which names the file
        raise
    _check(path, info, misshapen_too)
    _fill_buffers(model)
    if (settings := getattr(model, "generation_config", None)) is not None:
        if _was_renamed(model):
            _count_new_tokens(settings)
        leave_out_drawing(settings)
    return (model, info) if wants_info else model


def _check(path: str | os.PathLike[str] | None, info: Mapping[str, Any], misshapen_too: bool) -> None:
    """Raises UserError where weights are missing, left over or misshapen, or are another kind of checkpoint."""
    unexpected = info["unexpected_keys"]
    if any("temporal" in name for name in unexpected):
        raise UserError(f"{path}: a checkpoint of mPLUG-Owl-video, which takes clips; expected mPLUG-Owl, which takes pictures")
    if any(name.startswith(WRAPPED) for name in unexpected):
        raise UserError(f"{path}: {WRAPPED_CHECKPOINT}: owl convert BASE NEW --adapter {path}")
    misshapen = [f"{name} {tuple(found)}, expected {tuple(expected)}" for name, found, expected in info["mismatched_keys"]]
    problems = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:5])}"
        for names, what in (
            (info["missing_keys"], "missing"),
            (unexpected, "unexpected"),
            ([] if misshapen_too else misshapen, "misshapen"),
        )
        if names
    ]
    if problems:
        raise UserError(f"{path}: not the weights of the owl in its config.json; weights " + "; ".join(problems))


@contextmanager
def usable(part: str, source: str, kind: str) -> Iterator[None]:
    """What transformers says of a folder or hub id that it cannot use, as a UserError."""
    try:
        yield
    except UserError:
        raise
    # Not there; of a kind that transformers does not know; a package that is missing. Damage makes readers raise anything else.
    except Exception as error:
        reason = " ".join(str(error).split()).split(" Model type should be one of")[0].split(" If this is a private")[0]
        reason = reason or type(error).__name__
        raise UserError(f"{part}={source}: no {kind} can be loaded from there; {reason}") from error


def refuse_gaps(part: str, source: str, info: Mapping[str, Any]) -> None:
    """Raises UserError where weights of a part are missing or misshapen, for which transformers makes random ones.

    Poolers are not needed: nobody reads them.
    """
    gaps = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if names := sorted(name for name in gaps if "pooler" not in name):
        raise UserError(
            f"{part}={source}: {len(names)} weights missing or of other sizes than its config.json says: {', '.join(names[:3])}"
        )


def read_config(path: str | os.PathLike[str], **hub: object) -> MplugOwlConfig:
    """The config of an owl's folder or hub id. Raises UserError where there is none, or it is damaged or another model's."""
    try:
        values, _ = MplugOwlConfig.get_config_dict(path, **hub)
        values = dict(values)
    # Not there, not JSON, no connection: transformers has one class for them. The others are JSON, but no object.
    except (OSError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its config.json cannot be read; {str(error).splitlines()[0]}") from error
    if (model_type := values.get("model_type")) != MplugOwlConfig.model_type:
        raise UserError(
            f"{path}: config.json says model_type {model_type!r}; expected {MplugOwlConfig.model_type!r}, an mPLUG-Owl"
        )
    try:
        return MplugOwlConfig.from_dict(values)
    except UserError:
        raise
    except Exception as error:  # a field of another type makes transformers raise whatever it meets first
        raise UserError(f"{path}: its config.json cannot be read; {' '.join(str(error).split())}") from error


def hub_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Those of from_pretrained's options that say where and how the hub is asked."""
    return {name: options[name] for name in _HUB if name in options}


def fit_to_weights(config: MplugOwlConfig, path: str | os.PathLike[str] | None) -> MplugOwlConfig:
    """The config with the abstractor's inner width as the weight file has it.

    Released files carry 2816, the original's default says 4096 and its config.json need not say which.
    """
    if path is None or not Path(path).is_dir():
        return config
    files = weight_files(Path(path))
    if config.visual_abstractor_config.connector != "abstractor":
        return config
    if (width := _first_shape(files, _INNER_WIDTH)) is not None:
        config.visual_abstractor_config.intermediate_size = width[0]
    return config


def weight_files(path: Path) -> list[Path]:
    """The files that hold a folder's weights, the shards in order. Raises UserError when there are none."""
    for name in WEIGHT_FILES:
        if (found := path / name).is_file():
            if not name.endswith(".json"):
                return [found]
            try:
                shards = sorted({str(shard) for shard in json.loads(found.read_text("utf-8"))["weight_map"].values()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{found}: damaged; expected a weight_map from names to files ({error!r})") from error
            if gone := [shard for shard in shards if not (path / shard).is_file()]:
                raise UserError(f"{found}: names {gone[0]}, which is not in {path}")
            return [path / shard for shard in shards]
    raise UserError(f"{path}: no weights; expected one of {', '.join(WEIGHT_FILES)}")


def refuse_pointers(folder: Path) -> None:
    """Raises UserError where a file of the folder is a git-lfs pointer: a clone without git-lfs has those for large files."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_POINTER):
            raise UserError(f"{file}: a git-lfs pointer, not the file; run git lfs pull in {folder}")


def refuse_damaged_settings(folder: Path) -> None:
    """Raises UserError for a damaged generation_config.json, for which transformers takes others and says nothing."""
    file = folder / "generation_config.json"
    try:
        if file.is_file() and not isinstance(json.loads(file.read_text("utf-8")), dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError(f"{file}: damaged; expected a JSON object, or no such file ({error})") from error


def is_wrapped(folder: Path) -> bool:
    """Whether a folder's weights were saved by a Trainer from a model that peft had wrapped."""
    return any(name.startswith(WRAPPED) for file in weight_files(folder) for name in read_tensors(file, "meta"))


def read_tensors(file: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Name to tensor of one weight file; `device="meta"` reads shapes alone.

    Raises UserError for a pickle that holds anything but tensors: it is never run.
    """
    try:
        if file.suffix == ".safetensors":
            return _read_safetensors(file, device)
        return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_has_code(file)) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(_damaged(file, error)) from error


def _read_safetensors(file: Path, device: str) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt", device="cpu" if device == "meta" else device) as opened:
        names = list(opened.keys())
        if device == "meta":
            return {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in names}
        return {name: opened.get_tensor(name) for name in names}


@torch.no_grad()
def _fill_buffers(model: Any) -> None:
    """Give a connector the buffers that it computes and does not save; transformers leaves whatever was in the memory."""
    connector = getattr(getattr(model, "model", None), "abstractor", None)
    if not isinstance(connector, nn.Module):  # an owl without its head
        return
    held = dict(connector.named_buffers())
    if computed := held.keys() - connector.state_dict().keys():
        fresh = dict(model.build_connector(model.config).named_buffers())
        for name in computed:
            held[name].copy_(fresh[name])


def _was_renamed(model: PreTrainedModel) -> bool:
    """Whether a loaded model's weights had the original's names."""
    originals = {original for original, _ in RENAMINGS}
    used: Any = getattr(model, "_weight_conversions", ())
    return any(originals.intersection(conversion.source_patterns) for conversion in used)


def _count_new_tokens(settings: GenerationConfig) -> None:
    """The original's `max_length` counts the begin token and the new ones, not the prompt; transformers' counts the prompt."""
    if settings.max_length is not None and settings.max_new_tokens is None:
        settings.max_new_tokens, settings.max_length = settings.max_length - 1, None


def leave_out_drawing(settings: GenerationConfig) -> None:
    """Take out how words would be drawn where none are, as in vicuna's file: once changed, transformers does not save it."""
    if not settings.do_sample:
        for name in _DRAWING:
            setattr(settings, name, None)


def _first_shape(files: Iterable[Path], pattern: re.Pattern[str]) -> torch.Size | None:
    for file in files:
        for name, tensor in read_tensors(file, "meta").items():
            if pattern.search(name):
                return tensor.shape
    return None


def _has_code(path: str | os.PathLike[str] | None) -> str:
    return (
        f"{path}: a weight file holds Python code or objects, not only tensors. It was not run. "
        "Get the weights as safetensors, or from somebody you trust"
    )


def _damaged(path: str | os.PathLike[str] | None, error: Exception) -> str:
    return f"{path}: not readable as weights, cut short or damaged ({error})".splitlines()[0]


register_checkpoint_conversion_mapping(
    MplugOwlConfig.model_type, [WeightRenaming(original, ours) for original, ours in RENAMINGS]
)
