"""Floating-point operations of a token and of a picture, and what share of a device's rate a run reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.model.blip2 import add_text_side
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import encode_images, image_size, vision_tokens
from mplug_owl.train.objective import Objective, read_pairs
from mplug_owl.train.trainable import Part

# Dense bf16 TFLOP/s by datasheet, the most specific name first. What is not here has no rate rather than a made-up one.
RATES = {"H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0}


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, forward and backward: of one language position, and of one picture."""

    token: float
    picture: float

    def __call__(self, tokens: float, pictures: float) -> float:
        return self.token * tokens + self.picture * pictures


@dataclass(frozen=True)
class Utilisation:
    """Model FLOPs utilisation (MFU, arXiv 2204.02311, section 4.1): the share of a device's rate that a run reaches."""

    flops: Flops
    tflops: float

    def mfu(self, tokens: int, pictures: int, seconds: float) -> float:
        """MFU of one device that went through these in so many seconds. Padding counts as no work."""
        return self.flops(tokens, pictures) / (self.tflops * 1e12 * seconds)


def count_flops(config: MplugOwlConfig, parts: Sequence[Part], objective: Objective = "generation") -> Flops:
    """What a token and a picture cost a model of these sizes, of which these parts learn.

    Forward is 2 FLOPs a parameter and token. Gradients of activations cost that again where something in front learns,
    gradients of weights once more where they learn: 6 for what learns, 4 for a frozen language model after a vision encoder
    that learns. The language model's attention is left out: 2 % at 512 tokens of LLaMA-7B.

    In BLIP-2's first step a Q-Former reads a pair five times, and the language model none.
    """
    encoder, bridge, embedding = _forward(config)
    vision, connector, language = parts
    if objective == "blip2":
        return _first_step(config, encoder * passes(vision, False), vision.trainable > 0)
    picture = encoder * passes(vision, False) + bridge * passes(connector, vision.trainable > 0)
    in_front = vision.trainable + connector.trainable > 0
    return Flops(2.0 * (language.parameters - embedding) * passes(language, in_front), picture)


def _first_step(config: MplugOwlConfig, encoder: float, vision_learns: bool) -> Flops:
    """Of a word and of a picture in BLIP-2's first step, whose picture has cost `encoder` before the Q-Former.

    Forward and backward as PyTorch counts them, for not all that a pass computes has a gradient. A text's cost is taken as
    linear in its words, by texts of 2 and of 34. A sample's tokens count its picture's positions, which no text side reads:
    they are taken off the picture.
    """
    with torch.device("meta"):
        model = MplugOwlForConditionalGeneration(config).requires_grad_(False)
        add_text_side(model, 34)
        width = config.vision_config.hidden_size
        patches_IPD = torch.empty(1, vision_tokens(config.vision_config), width, requires_grad=vision_learns)
    model.model.abstractor.requires_grad_(True)
    found = []
    for words in (2, 34):
        with FlopCounterMode(display=False) as counter:
            read_pairs(model, patches_IPD, words).backward()
        found.append(counter.get_total_flops())
    word = (found[1] - found[0]) / 32
    return Flops(word, encoder + found[0] - 2 * word - word * model.num_image_tokens)


def device_tflops(device: torch.device) -> float | None:
    """The dense bf16 rate of the device at hand, None where no datasheet's is known: of a CPU, of other GPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in RATES.items() if part in name), None)


def passes(part: Part, something_in_front_learns: bool) -> float:
    """Forward, gradients of activations, gradients of weights: how many of the three a module needs."""
    if part.tuning == "full":
        return 3
    if part.tuning == "last":
        return (2 if something_in_front_learns else 1) + 2 * part.trainable / part.parameters
    return 2 if part.tuning == "lora" or something_in_front_learns else 1


# What was counted of models by their configs: a plan of two stages, or of one with other settings, counts once.
_COUNTED: dict[str, tuple[int, int, int]] = {}


def _forward(config: MplugOwlConfig) -> tuple[int, int, int]:
    """FLOPs of one picture through f_V and through f_K, attention included, and parameters of an untied embedding.

    Counted by PyTorch on the meta device.
    """
    if (key := config.to_json_string(use_diff=False)) not in _COUNTED:
        with torch.device("meta"):
            model = MplugOwlForConditionalGeneration(config).requires_grad_(False)
        embedding = 0 if model.config.tie_word_embeddings else model.get_input_embeddings().weight.numel()
        _COUNTED[key] = *_picture_flops(model), embedding
    return _COUNTED[key]


def _picture_flops(model: MplugOwlForConditionalGeneration) -> tuple[int, int]:
    """One picture's forward pass through f_V and through f_K, counted by PyTorch on the meta device, attention included."""
    side = image_size(model.config.vision_config)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        patches_IPD = encode_images(model.model.vision_tower, torch.empty(1, 3, side, side)).last_hidden_state
        encoder = counter.get_total_flops()
        model.model.abstractor(patches_IPD)
    return encoder, counter.get_total_flops() - encoder
