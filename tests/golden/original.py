"""A small owl as the original leaves one in a folder: its config.json, its names of weights, its tokenizer."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from tests.golden import reference
from tests.golden.reference import Sizes

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}


def config(sizes: Sizes) -> dict[str, Any]:
    """The fields of config.json that the original reads."""
    return {
        "model_type": "mplug-owl",
        "num_query_tokens": sizes.queries,
        "vision_config": {
            "model_type": "mplug_owl_vision_model",
            "hidden_size": sizes.vision,
            "intermediate_size": sizes.vision_inner,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "image_size": sizes.image,
            "patch_size": sizes.patch,
        },
        "visual_abstractor_config": {
            "hidden_size": sizes.vision,
            "encoder_hidden_size": sizes.vision,
            "num_hidden_layers": sizes.abstractor_layers,
            "num_attention_heads": sizes.abstractor_heads,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": sizes.vocabulary,
            "hidden_size": sizes.language,
            "intermediate_size": sizes.language_inner,
            "num_hidden_layers": sizes.language_layers,
            "num_attention_heads": sizes.language_heads,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    }


def write(folder: Path, sizes: Sizes | None = None) -> Path:
    """Make a folder with the files that the original's own code saves; the weights are the reference's."""
    sizes = sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(tokenizer(sizes.vocabulary))
    for name, values in {
        "config": config(sizes),
        "generation_config": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_length": 512},
        "preprocessor_config": images(sizes),
        "special_tokens_map": SPECIAL,
        "tokenizer_config": {**SPECIAL, "add_bos_token": False, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    weights = {name: torch.from_numpy(reference.weight(name, shape)).float() for name, shape in reference.shapes(sizes).items()}
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def images(sizes: Sizes) -> dict[str, Any]:
    """The fields of preprocessor_config.json, CLIP's."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"), True),
        "size": {"shortest_edge": sizes.image},
        "crop_size": {"height": sizes.image, "width": sizes.image},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def tokenizer(entries: int) -> bytes:
    """A sentencepiece model by LLaMA's rules: every byte has an entry, spaces are kept, a text begins with one."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown owl  jumps over a lazy dog", "what  does the owl see in this image"] * 4),
        model_writer=model,
        vocab_size=entries,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return model.getvalue()
