"""An owl from where it lies: its model on the best device there is, its processor, and nothing said on the way."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import fit_to_weights, read_config
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.locate import are_eyes, locate, standing_on
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.quantised import Quantisation, quantise
from mplug_owl.model.small_weights import INT8, to_int8


@dataclass(frozen=True)
class Owl:
    """A model and the processor that goes with it; `load` and `build` make one."""

    model: MplugOwlForConditionalGeneration
    processor: MplugOwlProcessor


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    quantize: Quantisation | None = None,
) -> Owl:
    """An owl ready to answer, of our layout or the original's.

    Args:
        path: A model's folder, a run's, a LoRA adapter's, a hub id, or `owl-tiny`, which comes with the package.
        device: Where the model goes, such as `cuda`, `cuda:1`, `mps` or `cpu`; None takes the best there is.
        dtype: The weights' precision, such as `bfloat16`; `auto` keeps the file's. `int8` is for answering alone, on a CPU.
        quantize: The language model's linear layers in a byte each, or with nf4 in half of one, for answering alone. An
            adapter stays beside them then and is not rounded: so it was learned if `base` was the same (QLoRA).

    Returns:
        The model in eval mode and its processor.

    Raises:
        UserError: There is no such model, its files do not fit together, or there is no such device or precision.

    Example:
        >>> from mplug_owl.model.load import load
        >>> owl = load("owl-tiny", device="cpu")
        >>> owl.model.num_image_tokens
        41
    """
    target, where = find_device(device), locate(path)
    precision = dtype if dtype == "auto" else find_dtype("float32" if dtype == INT8 else dtype)
    with quiet():
        owl = _load(where, precision, merged=quantize is None)
    module: torch.nn.Module = owl.model  # whose `to` type checkers can read; transformers' own is wrapped
    module.to(target)
    if dtype == INT8:
        to_int8(owl.model)
    if quantize is not None:
        quantise(owl.model, quantize)
    return owl


def load_processor(path: str | os.PathLike[str]) -> MplugOwlProcessor:
    """The processor alone of what `load` would open. Raises UserError as `load` does."""
    where = standing_on(locate(path))[-1]
    if are_eyes(where):
        return _load(where, "auto").processor
    with quiet():
        return MplugOwlProcessor.from_pretrained(where)


def load_config(path: str | os.PathLike[str]) -> MplugOwlConfig:
    """The config alone of what `load` would open; of a hub id nothing else is fetched. Raises UserError as `load` does."""
    where = standing_on(locate(path))[-1]
    with quiet():
        config = read_config(where)
        return config if are_eyes(where) else fit_to_weights(config, where)


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which transformers shows neither bars nor hints. What its user has chosen holds again after it.

    One hint comes later, with the first words: that LFM2's convolution is computed in plain PyTorch. It is left out for good.
    """
    logging.getLogger("transformers.integrations.hub_kernels").addFilter(_is_no_hint)
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(max(level, logging.ERROR))
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _is_no_hint(record: logging.LogRecord) -> bool:
    return "causal_conv1d" not in record.getMessage()


def _load(where: str, dtype: str | torch.dtype, merged: bool = True) -> Owl:
    if below := standing_on(where)[1:]:
        from mplug_owl.model.adapter import attach, merge  # not above: peft takes a second that most models do not need

        base = _load(below[0], dtype)  # merged: this adapter was learned beside weights that held the others
        return Owl((merge if merged else attach)(base.model, Path(where)).eval(), base.processor)
    if are_eyes(where):
        from mplug_owl.model.eyes import give_eyes  # not above: it builds on this file

        return give_eyes(Path(where), dtype=dtype, merged=merged)
    model = MplugOwlForConditionalGeneration.from_pretrained(where, dtype=dtype)
    processor = MplugOwlProcessor.from_pretrained(where)
    processor.follow(model.config)
    return Owl(model.eval(), processor)


def find_dtype(name: str | torch.dtype) -> torch.dtype:
    """The precision of this name. Raises UserError where PyTorch has none that weights can be kept in."""
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"dtype {name}: expected float32, bfloat16 or float16")
    return found


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of this name; by default the accelerator (CUDA, then Apple's) where there is one, else the CPU."""
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # no such name, no such number, or a torch without it
        raise UserError(f"device {name}: not here; expected cpu, cuda, cuda:0 or mps") from error
    return torch.device(name)
