"""Floating-point operations of a token and of a picture, and what share of a device's rate a run reaches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.model.blip2 import CONTRAST_WIDTH
from mplug_owl.model.config import MplugOwlConfig, vision_width
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import encode_images, image_size, vision_tokens
from mplug_owl.train.objective import READINGS, Objective
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
    gradients of weights once more where they learn: 6 for what learns, LoRA's adapters too, 4 for a frozen language model after
    a vision encoder that learns. The language model's attention is left out: 2 % at 512 tokens of LLaMA-7B.

    In BLIP-2's first step a Q-Former reads a pair five times, and the language model none.
    """
    encoder, bridge, embedding = _forward(config)
    vision, connector, language = parts
    if objective == "blip2":
        return _first_step(config, encoder * passes(vision, False))
    picture = encoder * passes(vision, False) + bridge * passes(connector, vision.trainable > 0)
    picture += vision_tokens(config.vision_config) * (_adapters(vision) + _adapters(connector))
    in_front = vision.trainable + connector.trainable > 0
    return Flops(2.0 * (language.parameters - embedding) * passes(language, in_front) + _adapters(language), picture)


def _first_step(config: MplugOwlConfig, encoder: float) -> Flops:
    """Of a word and of a picture in BLIP-2's first step, where a picture costs `encoder` before the Q-Former.

    Five passes read the pair, or a wrong one: one each side alone, three to match, one to write; backward costs forward twice.
    A sample's tokens count its picture's positions, which are no words, so these are taken off the picture. Words' attention to
    one another is left out, and so is what one picture of a batch costs another.
    """
    connector = config.visual_abstractor_config
    width, inner, layers = connector.hidden_size, connector.intermediate_size, connector.num_hidden_layers
    queries, patches, seen = config.num_query_tokens, vision_tokens(config.vision_config), vision_width(config.vision_config)
    position = 8 * width**2 + 4 * width * inner  # of one layer: four projections and the MLP
    beside = 4 * queries * width  # what attention to all queries costs a position, and as much to be seen by them
    word = (
        layers * (READINGS * position + 2 * (READINGS - 1) * beside) + 2 * width**2 + 2 * width * config.text_config.vocab_size
    )
    cross = queries * 4 * width**2 + patches * 4 * seen * width + 4 * queries * patches * width
    picture = READINGS * (layers * queries * (position + beside) + -(-layers // 2) * cross)
    picture += 2 * queries * width * CONTRAST_WIDTH
    return Flops(3.0 * word, encoder + 3.0 * (picture - word * queries))


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
        share = part.trainable / part.parameters
        return 2 + share if something_in_front_learns else 1 + 2 * share
    return 2 if part.tuning == "lora" or something_in_front_learns else 1


def _adapters(part: Part) -> float:
    """What LoRA's adapters cost a token, all three passes; a part's own parameters are counted without them."""
    return 6.0 * part.trainable if part.tuning == "lora" else 0.0


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
