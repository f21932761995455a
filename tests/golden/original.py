"""A small owl as the original leaves one in a folder: its config.json, its names of weights, its tokenizer."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from tests.golden import reference
from tests.golden.reference import Sizes


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


def write(folder: Path, sizes: Sizes | None = None) -> None:
    """Put an original checkpoint into a folder; the weights are those of the reference."""
    sizes = sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(sizes)), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": sizes.image}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer(sizes.vocabulary))
    weights = {name: torch.from_numpy(reference.weight(name, shape)).float() for name, shape in reference.shapes(sizes).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def tokenizer(entries: int) -> bytes:
    """A sentencepiece model in LLaMA's manner: every byte has an entry, and what is left of `entries` are letters."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the owl sees the owl"]),
        model_writer=model,
        vocab_size=entries,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()
