"""Small owls for tests: every part of every kind, made on the spot, offline, in milliseconds."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlProcessor

SPECIAL = ("<unk>", "<s>", "</s>")
VOCABULARY = 3 + 256

_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
VISIONS: dict[str, dict[str, Any]] = {
    "own": {"model_type": "mplug_owl_vision_model", **_VISION},
    "clip": {"model_type": "clip_vision_model", **_VISION},
    "siglip": {"model_type": "siglip_vision_model", **_VISION},
    "siglip2": {"model_type": "siglip2_vision_model", **_VISION, "num_patches": 4},
    "dinov2": {"model_type": "dinov2", **_VISION},
    "dinov2-registers": {"model_type": "dinov2_with_registers", **_VISION, "num_register_tokens": 2},
}
CONNECTORS = ("abstractor", "linear", "mlp", "qformer", "resampler")

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GATED = {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 12}
LANGUAGES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_TEXT, **_GATED},
    "qwen3": {"model_type": "qwen3", **_TEXT, **_GATED},
    "gemma3": {
        "model_type": "gemma3_text",
        **_TEXT,
        **_GATED,
        "sliding_window": 8,
        "query_pre_attn_scalar": 12,
        "final_logit_softcapping": 0.5,  # low enough to be felt
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "lfm2": {
        "model_type": "lfm2",
        **_TEXT,
        **_GATED,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "opt": {"model_type": "opt", **_TEXT, "ffn_dim": 32, "word_embed_proj_dim": 24},
    "bloom": {"model_type": "bloom", **_TEXT},
    "phi": {"model_type": "phi", **_TEXT, "intermediate_size": 32},
    "phi3": {"model_type": "phi3", **_TEXT, "intermediate_size": 32, "num_key_value_heads": 1},
    "gpt2": {"model_type": "gpt2", **_TEXT, "n_positions": 512},
}


def tiny_config(vision: str = "own", connector: str = "abstractor", language: str = "llama", **fields: Any) -> MplugOwlConfig:
    """The config of a small owl of these three parts; `fields` are MplugOwlConfig's own."""
    return MplugOwlConfig(
        vision_config=VISIONS[vision],
        visual_abstractor_config={
            "connector": connector,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        text_config=LANGUAGES[language],
        **{"num_query_tokens": 4, **fields},
    )


def tiny_owl(config: MplugOwlConfig, seed: int = 0) -> MplugOwlForConditionalGeneration:
    """A small owl whose weights are all random, biases and norms too, so that nothing hides behind a zero or a one."""
    torch.manual_seed(seed)
    owl = MplugOwlForConditionalGeneration(config).eval()
    shaken(owl)
    return owl


@torch.no_grad()
def shaken(module: torch.nn.Module, size: float = 0.1) -> None:
    """Add noise to every weight of a module."""
    for weight in module.parameters():
        weight.add_(torch.randn_like(weight) * size)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, after <unk>, <s> and </s>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate([*SPECIAL, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    unk, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unk, pad_token=unk, bos_token=bos, eos_token=eos)


def tiny_processor(owl: MplugOwlForConditionalGeneration) -> MplugOwlProcessor:
    """The processor of a small owl."""
    return MplugOwlProcessor.for_model(owl, tiny_tokenizer())


def picture(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Coloured noise in large squares: no two seeds look alike, at any size."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)
