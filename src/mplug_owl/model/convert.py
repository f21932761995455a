"""Checkpoints from one layout to another: the original's, ours, adapters merged into either, and a module on its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mplug_owl.errors import UserError
from mplug_owl.model.adapter import merge
from mplug_owl.model.checkpoints import original_name
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.model.load import load
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.writing import replacing, writing

# What today's LLaMA can be and that of transformers 4.28, which the original runs on, can't.
_PLAIN_LLAMA = {
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "attention_bias": False,
    "mlp_bias": False,
}


Module = Literal["vision", "language"]


# Over 40 lines: half of them say what goes in and what goes wrong.
def convert(
    source: Path,
    target: Path,
    original: bool = False,
    adapter: Path | None = None,
    module: Module | None = None,
    bf16: bool = False,
) -> None:
    """Write the checkpoint in `source`, of either layout, to `target`: ours, or with `original` the original's.

    Args:
        source: A model's folder, or a name that `load` knows.
        target: A new folder or an empty one.
        original: Write the original's layout, which its own code loads.
        adapter: A LoRA folder, ours or the original's, whose changes go into the weights.
        module: Write this one alone, as plain transformers loads it and as `Modules` takes it.
        bf16: Write the weights in bf16, half the size.

    Raises:
        UserError: Something does not fit. Nothing is ever written over.
        WriteError: `target` could not be written. Nothing half-written is left there.
    """
    if original and module:
        raise UserError("--original and --module: a module alone has no layout of the original's; give one of them")
    target = Path(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: already there; give a new folder or an empty one, nothing is written over")
    owl = load(source, device="cpu")
    model = owl.model if adapter is None else merge(owl.model, Path(adapter))

    if bf16:
        model.bfloat16()
    with writing(target), replacing(target) as unfinished:
        unfinished.mkdir(parents=True)
        if module is not None:
            save_module(model, owl.processor, module, unfinished)
        elif original:
            save_original(model, owl.processor, unfinished)
        else:
            model.save_pretrained(unfinished)
            owl.processor.save_pretrained(unfinished)


def save_module(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor, module: Module, folder: Path) -> None:
    """Write f_V with its image processor, or f_L with its tokenizer, to be joined to others."""
    if module == "vision":
        model.model.vision_tower.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)
    else:
        with alone_as_a_language_model(model) as language:
            language.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)


@contextmanager
def alone_as_a_language_model(model: MplugOwlForConditionalGeneration) -> Iterator[PreTrainedModel]:
    """f_L with its head, the class that transformers knows it by; the weights are shared, not copied.

    BLOOM's norm of embeddings, which an owl has beside f_L, is in it for as long as the block lasts.
    """
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(model.config.text_config)
    inside, norm = model.model.language_model, model.model.embedding_norm
    setattr(language, language.base_model_prefix, inside)
    language.set_output_embeddings(model.lm_head)
    language.tie_weights()
    language.generation_config = model.generation_config
    moved = not isinstance(norm, nn.Identity)
    if moved:
        inside.word_embeddings_layernorm = norm
    try:
        yield language
    finally:
        if moved:
            inside.word_embeddings_layernorm = nn.Identity()


def save_original(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor, folder: Path) -> None:
    """Write what the original's own code loads, with transformers 4.28: its names, its pickle of tensors, its configs.

    Raises UserError for an owl that the original's code can't be, or that it would speak to otherwise than it was taught.
    """
    if processor.chat_format is not None:
        raise UserError(
            "--original: this owl is spoken to in its language model's own chat format, and the original's code knows "
            "'Human: ... AI: ...' alone, which it was not trained on; convert without --original"
        )
    config = _original_config(model.config, model.dtype)
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


def _original_config(config: MplugOwlConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config in the words of transformers 4.28. Raises UserError for an owl that the original's code can't be."""
    text, connector = config.text_config, config.visual_abstractor_config.connector
    if config.vision_config.model_type != "mplug_owl_vision_model" or connector != "abstractor":
        raise UserError(
            f"the original has its own vision encoder and the abstractor, not {config.vision_config.model_type} and {connector}"
        )
    if stem := config.vision_config.stem_channels:
        raise UserError(f"the original's vision encoder has no stem, stem_channels={[*stem]}; convert without --original")
    if text.model_type == "llama":
        plain = {**_PLAIN_LLAMA, "num_key_value_heads": text.num_attention_heads}
        if modern := [f"{name}={getattr(text, name)}" for name, value in plain.items() if getattr(text, name, value) != value]:
            raise UserError(f"the original's LLaMA has no {', '.join(modern)}")
    values = config.to_dict()
    for part in (values, values["vision_config"], values["visual_abstractor_config"], values["text_config"]):
        part.pop("dtype", None)
        part["torch_dtype"] = str(dtype).removeprefix("torch.")
    values["vision_config"]["hidden_act"] = "quick_gelu"
    values["use_decoder_only_language_model"] = True
    return values


def _original_images(images: MplugOwlImageProcessor) -> dict[str, Any]:
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


def _save_original_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    special = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "unk", "pad")}
    _write(folder / "special_tokens_map.json", special)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)  # 4.28 has none
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
