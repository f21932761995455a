"""How long one training step takes, in units of one 2048 x 2048 x 2048 float32 matrix product timed in the same run.

The model of the original's baseline: 263,020,800 parameters, float32, one thread (sizes: shared/parity/README.md, section
12). Each number is the median of `--repeats` after a warm-up, the products timed between the steps, so that a busy machine
slows both.

    python benchmarks/speed.py [--repeats 5] [--precision fp32|bf16]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mplug_owl.model.build import count
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.recipes import tiny
from mplug_owl.train.recipe import LoRA, Recipe, Trainable
from mplug_owl.train.trainable import prepare, set_mode

# (bar, the original's time, the arithmetic alone) in the same unit, from the issue that set them.
BARS = {"stage 1, 4 x 128 tokens": (56, 65, 49), "LoRA r 8, 2 x 512 tokens": (42, 59, 31)}


def owl_263m() -> MplugOwlConfig:
    """Width 768 everywhere: ViT-B/14, six abstractor layers, twelve LLaMA layers."""
    return MplugOwlConfig(
        vision_config={
            "model_type": "mplug_owl_vision_model",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        visual_abstractor_config={"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12},
        text_config={
            "model_type": "llama",
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 32000,
        },
    )


def step(recipe: Recipe, samples: int, tokens: int) -> Callable[[], None]:
    """Forward and backward of one step: one picture a sample, every word behind it learned."""
    torch.manual_seed(0)
    owl = MplugOwlForConditionalGeneration(owl_263m())
    if (found := count(owl)) != 263_020_800:
        raise ValueError(f"{found:,} parameters; the baseline has 263,020,800")
    learner = prepare(owl, recipe)
    set_mode(owl, recipe.trainable)
    ids = torch.randint(3, 32000, (samples, tokens))
    ids[:, 1 : 1 + owl.num_image_tokens] = owl.config.image_token_id
    labels = ids.masked_fill(ids == owl.config.image_token_id, -100)
    labels[:, 0] = -100
    pixels = torch.randn(samples, 3, 224, 224)

    def run() -> None:
        learner.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss: Tensor = learner(
                input_ids=ids, labels=labels, pixel_values=pixels, supervised_only=True, use_cache=False
            ).loss
        loss.backward()

    return run


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(repeats: int, precision: str) -> None:
    """Print a line for each of the two steps."""
    torch.set_num_threads(1)
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    base = replace(tiny.pretrain(), precision=precision)
    recipes = {
        "stage 1, 4 x 128 tokens": (base, 4, 128),
        "LoRA r 8, 2 x 512 tokens": (
            replace(base, trainable=Trainable("frozen", "frozen", "lora"), lora=LoRA(rank=8, alpha=32, dropout=0.05)),
            2,
            512,
        ),
    }
    print(f"torch {torch.__version__}, one thread, {precision}, median of {repeats}")
    for name, (recipe, samples, tokens) in recipes.items():
        work = step(recipe, samples, tokens)
        work()
        products, steps = [], []
        for _ in range(repeats):
            products.append(statistics.median(seconds(lambda: left @ right) for _ in range(5)))
            steps.append(seconds(work))
        unit, taken = statistics.median(products), statistics.median(steps)
        bar, original, arithmetic = BARS[name]
        print(
            f"{name}: {taken / unit:.1f} products (bar {bar}, original {original}, arithmetic {arithmetic}); "
            f"{taken:.2f} s, best {min(steps) / min(products):.1f}, one product {unit * 1e3:.0f} ms"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments = parser.parse_args()
    main(arguments.repeats, arguments.precision)
