"""Decoding on a card: words a second at several batch sizes, and the share of its memory's bandwidth that the weights take.

Each word of a batch reads all weights of the language model once, so bytes a second over the datasheet's is what is reached.
The model is random; every row begins with one picture and is continued to the same length. Part of benchmarks/gpu.py.
"""

from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from benchmarks.device import Door
from mplug_owl.chat.decode import Prompt, decode
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import image_size
from mplug_owl.train.recipe import Recipe

BATCHES = (1, 4, 32)
BAR = 0.7  # of the bandwidth


@dataclass(frozen=True)
class Speed:
    """One batch size: words a second over all rows, and the share of the bandwidth, None where it is not known."""

    batch: int
    words_a_second: float
    bandwidth: float | None


def measure_decoding(recipe: Recipe, door: Door, words: int) -> list[Speed]:
    """Build the recipe's model in bf16 and continue rows of one picture and eight ids by `words` ids."""
    with door.device:
        owl = MplugOwlForConditionalGeneration(recipe.modules.config()).to(torch.bfloat16).eval()
    side, positions = image_size(owl.config.vision_config), owl.num_image_tokens
    with torch.no_grad():
        feature_1NE = owl.get_image_features(
            torch.zeros(1, 3, side, side, dtype=torch.bfloat16, device=door.device), return_dict=True
        ).pooler_output
    ids = [owl.config.image_token_id] * positions + list(range(5, 13))
    language = sum(weight.numel() for weight in owl.model.language_model.parameters()) * 2  # bytes
    config = GenerationConfig(max_new_tokens=words, do_sample=False, eos_token_id=None, pad_token_id=0)
    found = []
    for batch in BATCHES:

        def run(length: int, batch: int = batch) -> float:
            config.max_new_tokens = length
            prompts = [Prompt(ids, ("picture",)) for _ in range(batch)]  # type: ignore[arg-type]  # its features are given
            look = lambda pictures: feature_1NE.expand(len(pictures), -1, -1)  # noqa: E731
            return door.seconds(lambda: list(decode(owl, prompts, look, config, lambda _: False, batch)))

        run(2)
        # Reading the prompt is not decoding. The quickest of three each; a laptop's noise must not make it negative.
        seconds = max(min(run(words) for _ in range(3)) - min(run(1) for _ in range(3)), 1e-6)
        steps = (words - 1) / seconds
        _, rate = door.datasheet
        share = None if rate is None else round(steps * language / (rate * 1e9), 6)
        found.append(Speed(batch, round(steps * batch, 1), share))
    return found
