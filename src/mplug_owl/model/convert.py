"""Checkpoints from one layout to another: the original's, ours, and adapters merged into either."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from mplug_owl.model.checkpoints import original_name, our_name, read_tensors
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor

# What an adapter's weights are saved as: by peft, and by the original's Trainer together with all other weights.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")
# What today's LLaMA can be and that of transformers 4.28, which the original runs on, can't.
_PLAIN_LLAMA = {
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "attention_bias": False,
    "mlp_bias": False,
}


def convert(source: Path, target: Path, original: bool = False, adapter: Path | None = None) -> None:
    """Write the checkpoint in `source`, of either layout, to `target`: ours, or with `original` the original's.

    `adapter` is a LoRA folder, ours or the original's, whose changes go into the weights. Raises ValueError that says what
    does not fit; then nothing is written. Nothing is ever written over.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target}: already there; give a new folder or an empty one, nothing is written over")
    if not (source / "config.json").is_file():
        raise ValueError(f"{source}: no config.json; expected the folder of an mPLUG-Owl checkpoint")
    model = MplugOwlForConditionalGeneration.from_pretrained(source, dtype="auto")
    processor = MplugOwlProcessor.from_pretrained(source)
    if adapter is not None:
        model = merge(model, Path(adapter))

    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        if original:
            save_original(model, processor, unfinished)
        else:
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
        unfinished.replace(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def merge(model: MplugOwlForConditionalGeneration, adapter: Path) -> MplugOwlForConditionalGeneration:
    """The model with a LoRA adapter in its own weights.

    Names may be ours or the original's. Raises ValueError when adapter and model do not fit to the last weight.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(
            f"{adapter}: no adapter_config.json; expected a folder as peft saves it (the original's stage 2 has r 8, "
            "lora_alpha 32 on q_proj and v_proj)"
        )
    settings = PeftConfig.from_pretrained(str(adapter))
    if settings.peft_type != "LORA":
        raise ValueError(f"{adapter}: a {settings.peft_type} adapter; expected LORA, the one that can become plain weights")
    given = {_adapted_name(name): tensor for name, tensor in read_tensors(_adapter_file(adapter)).items()}

    # Where all weights were saved together, those under the adapter are the trained ones.
    inside = {name for name in given if name.removeprefix(_WRAPPED) in model.state_dict()}
    model.load_state_dict({name.removeprefix(_WRAPPED): given.pop(name) for name in inside}, strict=False)
    wrapped = PeftModel(model, settings)
    expected = get_peft_model_state_dict(wrapped)
    misshapen = {name for name in given.keys() & expected.keys() if given[name].shape != expected[name].shape}
    for names, what in (
        (expected.keys() - given.keys(), "missing"),
        (given.keys() - expected.keys(), "unexpected"),
        (misshapen, "misshapen"),
    ):
        if names:
            raise ValueError(
                f"{adapter}: not an adapter of this owl; {len(names)} weights {what}: {', '.join(sorted(names)[:3])}"
            )
    set_peft_model_state_dict(wrapped, given)
    return wrapped.merge_and_unload()


def save_original(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor, folder: Path) -> None:
    """Write what the original's own code loads, with transformers 4.28: its names, its pickle of tensors, its configs."""
    config = _original_config(model.config)
    language = model.config.text_config.model_type
    weights = {original_name(name, language): tensor for name, tensor in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    _write(folder / "config.json", config)
    _write(folder / "preprocessor_config.json", _original_images(processor.image_processor))
    settings = model.generation_config.to_diff_dict()
    if (new := settings.pop("max_new_tokens", None)) is not None:
        settings["max_length"] = new + 1  # the original counts the begin token
    _write(folder / "generation_config.json", settings)
    _save_original_tokenizer(processor.tokenizer, folder)


_WRAPPED = "base_model.model."


def _adapted_name(name: str) -> str:
    """An adapter's name for a weight, of any peft since 0.3 and either layout, as today's peft saves ours."""
    inner = name.removeprefix(_WRAPPED).replace(".base_layer.", ".").replace(".default.", ".")
    return _WRAPPED + our_name(inner)


def _adapter_file(adapter: Path) -> Path:
    for name in ADAPTER_FILES:
        if (adapter / name).is_file():
            return adapter / name
    raise ValueError(f"{adapter}: no adapter weights; expected one of {', '.join(ADAPTER_FILES)}")


def _original_config(config: MplugOwlConfig) -> dict[str, Any]:
    """The config in the words of transformers 4.28. Raises ValueError for an owl that the original's code can't be."""
    text, connector = config.text_config, config.visual_abstractor_config.connector
    if config.vision_config.model_type != "mplug_owl_vision_model" or connector != "abstractor":
        raise ValueError(
            f"the original has its own vision encoder and the abstractor, not {config.vision_config.model_type} and {connector}"
        )
    if text.model_type == "llama":
        plain = {**_PLAIN_LLAMA, "num_key_value_heads": text.num_attention_heads}
        if modern := [f"{name}={getattr(text, name)}" for name, value in plain.items() if getattr(text, name, value) != value]:
            raise ValueError(f"the original's LLaMA has no {', '.join(modern)}")
    values = config.to_dict()
    for part in (values, values["vision_config"], values["visual_abstractor_config"], values["text_config"]):
        part["torch_dtype"] = part.pop("dtype", None)
    values["vision_config"]["hidden_act"] = "quick_gelu"
    values["use_decoder_only_language_model"] = True
    return values


def _original_images(images: Any) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        **{f"do_{step}": True for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb")},
        "size": {"shortest_edge": images.size},
        "crop_size": {"height": images.size, "width": images.size},
        "resample": images.resample,
        "rescale_factor": images.rescale_factor,
        "image_mean": images.image_mean,
        "image_std": images.image_std,
    }


def _save_original_tokenizer(tokenizer: Any, folder: Path) -> None:
    special = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "unk", "pad")}
    _write(folder / "special_tokens_map.json", special)
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {
        "model_max_length": tokenizer.model_max_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if (folder / "tokenizer.model").is_file():
        settings |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": False, "sp_model_kwargs": {}}
    else:
        settings |= {"tokenizer_class": "BloomTokenizerFast", "add_prefix_space": False, "padding_side": "left"}
        words = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        # tokenizers 0.13 reads a merge as one string and knows no ignore_merges.
        words["model"]["merges"] = [" ".join(pair) if isinstance(pair, list) else pair for pair in words["model"]["merges"]]
        words["model"].pop("ignore_merges", None)
        _write(folder / "tokenizer.json", words)
    _write(folder / "tokenizer_config.json", settings)


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
