"""mPLUG-Owl once more, in numpy and float64: the paper's equations over the original's weights, using nothing of this package.

`python -m tests.golden.reference` computes a small owl with weights made by a formula, and writes values.json.
Shapes: I images, P vision tokens, Q queries, T text positions, D vision width, E language width, V vocabulary.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FILE = Path(__file__).with_name("values.json")
Array = np.ndarray
Weights = Mapping[str, Array]

PROMPT = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives helpful, detailed, and "
    "polite answers to the user's questions.\nHuman: <image>\nHuman: What is it?\nAI: "
)
ANSWER = "an owl"
# The weights by which the loss is differentiated.
SLOPES = (
    "vision_model.encoder.layers.0.self_attn.query_key_value.weight",
    "query_tokens",
    "abstractor.encoder.layers.0.crossattention.attention.key.weight",
    "abstractor.encoder.layers.1.crossattention.output.mlp.w3.weight",
    "abstractor.vit_eos",
    "language_model.model.layers.1.self_attn.v_proj.weight",
)


@dataclass(frozen=True)
class Sizes:
    """What config.json says: widths, layers, heads, and how a picture is cut."""

    image: int = 28
    patch: int = 14
    vision: int = 16
    vision_inner: int = 24
    vision_layers: int = 2
    vision_heads: int = 2
    queries: int = 3
    abstractor_inner: int = 20
    abstractor_layers: int = 2
    abstractor_heads: int = 4
    language: int = 24
    language_inner: int = 32
    language_layers: int = 2
    language_heads: int = 2
    vocabulary: int = 320


# The model


def encode_images(weights: Weights, sizes: Sizes, pixels_ICHW: Array) -> Array:
    """f_V: patches and a class token, positions, a norm, pre-norm layers, a norm. Gives [I, P, D]."""
    patch, per_side = sizes.patch, sizes.image // sizes.patch
    grid = pixels_ICHW.reshape(len(pixels_ICHW), 3, per_side, patch, per_side, patch)
    flat = grid.transpose(0, 2, 4, 1, 3, 5).reshape(len(pixels_ICHW), per_side**2, -1)
    patches = flat @ weights["vision_model.embeddings.patch_embed.weight"].reshape(sizes.vision, -1).T
    first = np.broadcast_to(weights["vision_model.embeddings.cls_token"], (len(patches), 1, sizes.vision))
    states = np.concatenate([first, patches], axis=1) + weights["vision_model.embeddings.position_embedding"]
    states = layer_norm(weights, "vision_model.embeddings.pre_layernorm", states, 1e-6)
    for index in range(sizes.vision_layers):
        layer = f"vision_model.encoder.layers.{index}"
        fused = linear(
            weights, f"{layer}.self_attn.query_key_value", layer_norm(weights, f"{layer}.input_layernorm", states, 1e-6)
        )
        # Rows lie head by head, and in each head queries, keys and values.
        by_head = fused.reshape(*fused.shape[:2], sizes.vision_heads, 3, -1)
        query, key, value = (by_head[:, :, :, part].reshape(states.shape) for part in range(3))
        states = states + linear(weights, f"{layer}.self_attn.dense", attention(query, key, value, sizes.vision_heads))
        inner = linear(weights, f"{layer}.mlp.fc1", layer_norm(weights, f"{layer}.post_attention_layernorm", states, 1e-6))
        states = states + linear(weights, f"{layer}.mlp.fc2", inner * sigmoid(1.702 * inner))
    return layer_norm(weights, "vision_model.post_layernorm", states, 1e-6)


def abstract(weights: Weights, sizes: Sizes, patches_IPD: Array) -> Array:
    """f_K: queries attend to themselves and the patches, then a SwiGLU. Gives [I, Q + 1, E], an end vector last."""
    queries = np.broadcast_to(weights["query_tokens"], (len(patches_IPD), sizes.queries, sizes.vision))
    for index in range(sizes.abstractor_layers):
        layer = f"abstractor.encoder.layers.{index}.crossattention"
        queries = layer_norm(weights, f"{layer}.norm1", queries, 1e-5)
        seen = np.concatenate([queries, layer_norm(weights, f"{layer}.normk", patches_IPD, 1e-5)], axis=1)
        query, key, value = (
            linear(weights, f"{layer}.attention.{name}", states)
            for name, states in (("query", queries), ("key", seen), ("value", seen))
        )
        queries = queries + linear(weights, f"{layer}.output.out_proj", attention(query, key, value, sizes.abstractor_heads))
        normed = layer_norm(weights, f"{layer}.output.norm2", queries, 1e-5)
        gate, up = linear(weights, f"{layer}.output.mlp.w1", normed), linear(weights, f"{layer}.output.mlp.w3", normed)
        inner = layer_norm(weights, f"{layer}.output.mlp.ffn_ln", gate * sigmoid(gate) * up, 1e-6)
        queries = queries + linear(weights, f"{layer}.output.mlp.w2", inner)
    visual = linear(weights, "abstractor.visual_fc", queries)
    return np.concatenate([visual, np.broadcast_to(weights["abstractor.vit_eos"], (len(visual), 1, visual.shape[-1]))], axis=1)


def speak(weights: Weights, sizes: Sizes, ids_T: Array, visual_INE: Array) -> Array:
    """f_L, a LLaMA: words and, where ids are below 0, pictures. Gives logits [T, V]."""
    states = weights["language_model.model.embed_tokens.weight"][np.maximum(ids_T, 0)]
    states[ids_T < 0] = visual_INE.reshape(-1, sizes.language)
    causal = np.triu(np.full((len(ids_T), len(ids_T)), -np.inf), 1)
    for index in range(sizes.language_layers):
        layer = f"language_model.model.layers.{index}"
        normed = rms_norm(weights, f"{layer}.input_layernorm", states)
        query, key, value = (linear(weights, f"{layer}.self_attn.{name}_proj", normed) for name in "qkv")
        query, key = (rotated(part, sizes.language_heads) for part in (query, key))
        mixed = attention(query[None], key[None], value[None], sizes.language_heads, causal)[0]
        states = states + linear(weights, f"{layer}.self_attn.o_proj", mixed)
        normed = rms_norm(weights, f"{layer}.post_attention_layernorm", states)
        gate = linear(weights, f"{layer}.mlp.gate_proj", normed)
        inner = gate * sigmoid(gate) * linear(weights, f"{layer}.mlp.up_proj", normed)
        states = states + linear(weights, f"{layer}.mlp.down_proj", inner)
    return rms_norm(weights, "language_model.model.norm", states) @ weights["language_model.lm_head.weight"].T


def mean_loss(logits_TV: Array, ids_T: Array, supervised: int) -> float:
    """Cross entropy of the last `supervised` ids, each told by the position before it."""
    before = logits_TV[-supervised - 1 : -1]
    shifted = before - before.max(-1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-log_shares[np.arange(supervised), ids_T[-supervised:]].mean())


# Its parts


def linear(weights: Weights, name: str, states: Array) -> Array:
    return states @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def layer_norm(weights: Weights, name: str, states: Array, eps: float) -> Array:
    centred = states - states.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(weights: Weights, name: str, states: Array) -> Array:
    return states / np.sqrt((states**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"]


def attention(query: Array, key: Array, value: Array, heads: int, mask: Array | float = 0.0) -> Array:
    """[I, T, D] to [I, S, D], head by head."""
    mixed = []
    for q, k, v in zip(*(np.split(states, heads, axis=-1) for states in (query, key, value)), strict=True):
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]) + mask
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed.append(shares / shares.sum(-1, keepdims=True) @ v)
    return np.concatenate(mixed, axis=-1)


def rotated(states_TE: Array, heads: int) -> Array:
    """Rotary positions: the two halves of a head are the two coordinates that turn."""
    turned = []
    for head in np.split(states_TE, heads, axis=-1):
        half = head.shape[-1] // 2
        angles = np.outer(np.arange(len(head)), 10000.0 ** (-np.arange(half) / half))
        x, y = head[:, :half], head[:, half:]
        turned += [x * np.cos(angles) - y * np.sin(angles), y * np.cos(angles) + x * np.sin(angles)]
    return np.concatenate(turned, axis=-1)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# What goes in, all of it by formulas


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The original's weights, name and shape."""
    s, found = sizes, {}

    def add(prefix: str, *named: tuple[str, int, int]) -> None:
        """Linear layers: name, what comes out, what goes in; 0 for a norm, that has one size."""
        for name, out, given in named:
            found[f"{prefix}{name}.weight"] = (out, given) if given else (out,)
            found[f"{prefix}{name}.bias"] = (out,)

    found["vision_model.embeddings.cls_token"] = (1, 1, s.vision)
    found["vision_model.embeddings.position_embedding"] = (1, (s.image // s.patch) ** 2 + 1, s.vision)
    found["vision_model.embeddings.patch_embed.weight"] = (s.vision, 3, s.patch, s.patch)
    add("vision_model.", ("embeddings.pre_layernorm", s.vision, 0), ("post_layernorm", s.vision, 0))
    for index in range(s.vision_layers):
        add(
            f"vision_model.encoder.layers.{index}.",
            ("input_layernorm", s.vision, 0),
            ("self_attn.query_key_value", 3 * s.vision, s.vision),
            ("self_attn.dense", s.vision, s.vision),
            ("post_attention_layernorm", s.vision, 0),
            ("mlp.fc1", s.vision_inner, s.vision),
            ("mlp.fc2", s.vision, s.vision_inner),
        )
    found["query_tokens"] = (1, s.queries, s.vision)
    found["abstractor.vit_eos"] = (1, 1, s.language)
    add("abstractor.", ("visual_fc", s.language, s.vision))
    for index in range(s.abstractor_layers):
        add(
            f"abstractor.encoder.layers.{index}.crossattention.",
            ("norm1", s.vision, 0),
            ("normk", s.vision, 0),
            ("attention.query", s.vision, s.vision),
            ("attention.key", s.vision, s.vision),
            ("attention.value", s.vision, s.vision),
            ("output.out_proj", s.vision, s.vision),
            ("output.norm2", s.vision, 0),
            ("output.mlp.w1", s.abstractor_inner, s.vision),
            ("output.mlp.w2", s.vision, s.abstractor_inner),
            ("output.mlp.w3", s.abstractor_inner, s.vision),
            ("output.mlp.ffn_ln", s.abstractor_inner, 0),
        )
    llama: dict[str, tuple[int, ...]] = {"model.embed_tokens": (s.vocabulary, s.language), "model.norm": (s.language,)}
    llama["lm_head"] = (s.vocabulary, s.language)
    for index in range(s.language_layers):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            llama[f"model.layers.{index}.{name}"] = (s.language, s.language)
        for name in ("mlp.gate_proj", "mlp.up_proj"):
            llama[f"model.layers.{index}.{name}"] = (s.language_inner, s.language)
        llama[f"model.layers.{index}.mlp.down_proj"] = (s.language, s.language_inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            llama[f"model.layers.{index}.{name}"] = (s.language,)
    return found | {f"language_model.{name}.weight": shape for name, shape in llama.items()}


def weight(name: str, shape: tuple[int, ...]) -> Array:
    """Sines of squares, which look random and are the same everywhere, with a phase of the name's own.

    Norms lie around one. Everything is rounded to float32, so that what reads it in float32 reads the same numbers.
    """
    count = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    waves = np.sin(0.37 * count**2 + zlib.crc32(name.encode()) % 1000)
    if len(shape) == 1:
        values = 0.2 * waves + ("norm" in name or "ffn_ln" in name) * name.endswith("weight")
    else:
        values = waves * 1.5 / np.sqrt(np.prod(shape[1:])) if "patch_embed" in name or len(shape) == 2 else 0.5 * waves
    return values.astype(np.float32).astype(np.float64)


def picture() -> Image.Image:
    """Three gradients in whole numbers, wider than high."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, (x * y * 5) % 256], -1).astype(np.uint8))


def pixel_values(sizes: Sizes, image: Image.Image) -> Array:
    """A picture as the original sees it: a bicubic square, then CLIP's mean and standard deviation. [1, 3, side, side]."""
    square = np.asarray(image.resize((sizes.image, sizes.image), Image.Resampling.BICUBIC)) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return ((square - mean) / deviation).transpose(2, 0, 1)[None]


def token_ids(sizes: Sizes) -> tuple[Array, int]:
    """The begin token, the prompt with -1 where the picture is, the answer and the end token; and how many are supervised."""
    before, after = PROMPT.split("<image>")
    marks = [-1] * (sizes.queries + 1)
    ids = [1, *_bytes(before), *marks, *_bytes(after), *_bytes(ANSWER), 2]
    return np.array(ids), len(ANSWER) + 1


def _bytes(text: str) -> list[int]:
    """Ids of the tests' tokenizer for ASCII: three special tokens, then visible characters; a space and a line's end later."""
    letters = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [code for code in range(256) if code not in letters]  # written as characters from 256 on
    return [
        3 + (letters.index(code) if code in letters else len(letters) + hidden.index(code)) for code in text.encode("ascii")
    ]


# What comes out


def numbers(weights: Weights, sizes: Sizes) -> dict[str, Array | float]:
    """Every quantity of one forward pass."""
    ids, supervised = token_ids(sizes)
    pixels = pixel_values(sizes, picture())
    patches = encode_images(weights, sizes, pixels)
    visual = abstract(weights, sizes, patches)
    logits = speak(weights, sizes, ids, visual)
    return {
        "pixel_values": pixels,
        "input_ids": ids,
        "vision": patches,
        "abstractor": visual,
        "logits": logits,
        "loss": mean_loss(logits, ids, supervised),
    }


def direction(name: str, shape: tuple[int, ...]) -> Array:
    """Where a weight is moved to, to see how the loss follows."""
    return weight(f"direction of {name}", shape)


def slope(weights: Weights, sizes: Sizes, name: str) -> float:
    """The derivative of the loss along a weight's direction, by the difference of two sides."""
    step, moved = 1e-5, direction(name, weights[name].shape)
    above, below = (numbers({**weights, name: weights[name] + way * step * moved}, sizes)["loss"] for way in (1, -1))
    return float(above - below) / (2 * step)


def few(values: Array, most: int = 40) -> list[float]:
    """Values spread evenly over an array, to keep the file small."""
    flat = values.ravel()
    return [round(float(value), 9) for value in flat[:: max(1, len(flat) // most)]]


def computed() -> dict[str, Any]:
    """What values.json holds."""
    sizes = Sizes()
    weights = {name: weight(name, shape) for name, shape in shapes(sizes).items()}
    found = numbers(weights, sizes)
    return {
        "made by": "python -m tests.golden.reference",
        "sizes": asdict(sizes),
        **{name: few(found[name]) for name in ("pixel_values", "vision", "abstractor", "logits")},
        "input_ids": found["input_ids"].tolist(),
        "loss": round(found["loss"], 9),
        "slopes": {name: round(slope(weights, sizes, name), 9) for name in SLOPES},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(computed(), indent=1) + "\n", encoding="utf-8")
