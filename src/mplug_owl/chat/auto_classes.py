"""Somebody else's model and its processor, by transformers' Auto classes: no code from a folder, no torchvision needed."""

import importlib.util
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.models.auto.image_processing_auto import (
    AutoImageProcessor,
)  # transformers' own name for it wants torchvision in 5.17
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from mplug_owl.errors import UserError
from mplug_owl.model.load import find_device, quiet
from mplug_owl.model.locate import locate

Opened = TypeVar("Opened")
# What transformers and the readers of weights raise where files, types or packages are not as they should be.
_COMPLAINTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, EOFError, UnpicklingError, SafetensorError)


def open_config(name: str) -> PreTrainedConfig:
    """The config of a model in a folder or on the hub.

    Raises:
        UserError: There is none, or transformers does not know its type.
    """
    where = locate(name)
    with quiet():
        return _opened(name, lambda: AutoConfig.from_pretrained(where, trust_remote_code=False))


def open_model(name: str, device: str | torch.device | None = None, dtype: str | torch.dtype = "auto") -> tuple[Any, Any]:
    """A model and its processor.

    Raises:
        UserError: There is no such model, it is not one that reads pictures and text, weights are missing, it wants code of its
            own to be run, or it needs a package that is not installed.
    """
    target, where = find_device(device), locate(name)
    with quiet():
        processor = _opened(name, lambda: _open_processor(where))
        auto: Any = AutoModelForImageTextToText
        # Weights of another size are let through to be named below, with those that are missing.
        options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = _opened(name, lambda: auto.from_pretrained(where, trust_remote_code=False, **options))
    if lost := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):  # they would be random
        raise UserError(f"{name}: {len(lost)} weights are missing or of another size, {lost[0]} the first; download it again")
    return model.to(target), processor


def _open_processor(where: str) -> Any:
    try:
        return AutoProcessor.from_pretrained(where, trust_remote_code=False)
    except ImportError:
        if importlib.util.find_spec("torchvision") is not None:
            raise
        # Processors of models that also see videos want torchvision, for the videos.
        return _without_videos(where)


def _without_videos(where: str) -> ProcessorMixin:
    """The processor of a model that sees pictures and videos, for pictures alone."""
    config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    kind: Any = PROCESSOR_MAPPING[type(config)]

    class PicturesOnly(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:  # SmolVLM's own asks how it samples videos
            return ProcessorMixin.apply_chat_template(self, *args, **kwargs)

    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(where, trust_remote_code=False),
        "tokenizer": AutoTokenizer.from_pretrained(where, trust_remote_code=False),
    }
    written, _ = kind.get_processor_dict(where)
    made: ProcessorMixin = PicturesOnly.from_args_and_dict([parts.get(name) for name in kind.get_attributes()], written)
    return made


def _opened(name: str, opening: Callable[[], Opened]) -> Opened:
    """What is opened; transformers' complaints about files, types and packages are a user's to mend."""
    try:
        return opening()
    except _COMPLAINTS as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if isinstance(error, ImportError):  # then come instructions
            reason = reason.partition(". ")[0]
        if "trust_remote_code" in str(error):
            reason = "it wants code of its own to be run, which nothing here does; expected a model that transformers has"
        raise UserError(f"hf:{name}: {reason}") from error
