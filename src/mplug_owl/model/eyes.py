"""Eyes apart from their language model: f_V, f_K and the adapter, a few megabytes, and an owl made of them and the base.

A folder of eyes holds config.json (the owl's), eyes.safetensors, base.json, which names the language model that they were
trained with, how pictures were normalised and conversations rendered (preprocessor_config.json, chat_template.jinja; without
them, as CLIP's and by the language model's own template), and where LoRA learned, `adapter/`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mplug_owl.errors import UserError
from mplug_owl.model.adapter import attach, merge
from mplug_owl.model.build import Modules, build
from mplug_owl.model.checkpoints import read_config, read_tensors, refuse_pointers
from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.model.load import Owl, find_dtype, load
from mplug_owl.model.locate import EYES_BASE
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.writing import replacing, writing

WEIGHTS, ADAPTER = "eyes.safetensors", "adapter"
IMAGES, TEMPLATE = "preprocessor_config.json", "chat_template.jinja"


@dataclass(frozen=True)
class Base:
    """A language model: its hub id, and the Python package and the file in it that hold it too."""

    hub: str
    package: str | None = None
    file: str | None = None

    def locate(self) -> str:
        """The file in the package where that is installed, else the hub id."""
        found = find_spec(self.package) if self.package else None
        if found is None or found.origin is None or self.file is None:
            return self.hub
        file = Path(found.origin).parent / self.file
        return str(file) if file.is_file() else self.hub


def take_eyes(run: Path, out: Path, base: Base, adapter: Path | None = None) -> None:
    """Write the eyes of a trained owl into the new folder `out`, in bf16.

    Args:
        run: The owl after stage 1, whose language model is as it was.
        out: A folder that is not there yet.
        base: Its language model.
        adapter: What LoRA learned in stage 2, as a run leaves it.

    Raises:
        UserError: `out` is there already, or `run` holds no owl.
    """
    if out.exists():
        raise UserError(f"{out}: already there; give a new folder")
    owl = load(run, device="cpu")
    model = owl.model
    with writing(out), replacing(out) as unfinished:
        unfinished.mkdir(parents=True)
        model.config.save_pretrained(unfinished)
        owl.processor.image_processor.save_pretrained(unfinished)
        (unfinished / TEMPLATE).write_text(str(owl.processor.chat_template), encoding="utf-8")
        save_file(_half(_seeing(model)), unfinished / WEIGHTS, {"format": "pt"})
        (unfinished / EYES_BASE).write_text(json.dumps(asdict(base), indent=1) + "\n", encoding="utf-8")
        if adapter is not None:
            (unfinished / ADAPTER).mkdir()
            settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = None  # the owl that `give_eyes` makes
            (unfinished / ADAPTER / "adapter_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            adapted = load_file(adapter / "adapter_model.safetensors")
            save_file(_half(adapted), unfinished / ADAPTER / "adapter_model.safetensors", {"format": "pt"})


def give_eyes(eyes: Path, language: str | None = None, dtype: str | torch.dtype = "auto", merged: bool = True) -> Owl:
    """The owl that eyes and their language model make together.

    Args:
        eyes: A folder as `take_eyes` writes it.
        language: The language model as `Modules` takes it; None for the one that base.json names.
        dtype: The weights' precision; `auto` is bf16, as the eyes are.
        merged: Whether the adapter goes into the weights it changes; else it stays beside them.

    Raises:
        UserError: A file is missing or damaged, or the language model is another size than the eyes were trained with.
    """
    refuse_pointers(eyes)
    try:
        base = Base(**json.loads((eyes / EYES_BASE).read_text(encoding="utf-8")))
        weights = read_tensors(eyes / WEIGHTS)
        images = MplugOwlImageProcessor.from_pretrained(eyes) if (eyes / IMAGES).is_file() else None
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{eyes}: not a folder of eyes; expected {WEIGHTS} and {EYES_BASE} in it ({error})") from error
    source = language or base.locate()
    prompt = str(eyes / TEMPLATE) if (eyes / TEMPLATE).is_file() else "auto"
    with torch.random.fork_rng(devices=[]):  # the fresh weights go, and whoever has set a seed keeps it
        owl = build(Modules(lambda: read_config(eyes), language=source, prompt=prompt), (), torch.initial_seed())
    if images is not None:
        owl.processor.image_processor = images
    expected = _seeing(owl.model)
    if {name: tensor.shape for name, tensor in weights.items()} != {name: tensor.shape for name, tensor in expected.items()}:
        raise UserError(f"{eyes / WEIGHTS}: other weights than config.json says; fetch the folder again")
    owl.model.model.load_state_dict(weights, strict=False)
    cast_weights(owl.model, torch.float32)  # so that the sum with the adapter is rounded once
    adapt = merge if merged else attach
    model = adapt(owl.model, eyes / ADAPTER) if (eyes / ADAPTER).is_dir() else owl.model
    cast_weights(model, torch.bfloat16 if dtype == "auto" else find_dtype(dtype))
    return Owl(model.eval(), owl.processor)


def _seeing(model: MplugOwlForConditionalGeneration) -> dict[str, Tensor]:
    """The weights of f_V and f_K, by their names in the owl's body."""
    return {
        f"{part}.{name}": tensor
        for part in ("vision_tower", "abstractor")
        for name, tensor in getattr(model.model, part).state_dict().items()
    }


def cast_weights(model: torch.nn.Module, precision: torch.dtype) -> None:
    """Give weights another precision, and not rotary frequencies, which are buffers."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(precision)


def _half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
