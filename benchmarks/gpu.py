"""Both stages at full size on one GPU: tokens a second, share of the card's rate (MFU), peak memory.

The 7.12 B parameters are random and nothing is downloaded. Stage 1 reads captions of about 100 tokens, 65 of them a picture's;
stage 2 conversations of about 400, every second with a picture. Rows are packed, frozen weights in bf16, as a run has them.
MFU is what the steps need (train/flops.py) over what the card could do: 989 TFLOP/s by an H200's or H100's datasheet.

    python benchmarks/gpu.py [--row 4096] [--rows 4] [--steps 10] [--tflops 989]
    python benchmarks/gpu.py --size tiny      # the same steps at a laptop's size, on any machine
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import nn

from mplug_owl.conversation import Conversation, Message, Picture, caption
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import Batch, StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.model.attention import PACKED, use_packed_attention
from mplug_owl.model.fresh import learn_tokenizer
from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.towers import image_size
from mplug_owl.recipes import paper, tiny
from mplug_owl.scenes import scenes
from mplug_owl.train.flops import Utilisation, count_flops
from mplug_owl.train.optim import clip_gradients, make_optimizer
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.trainable import prepare, set_mode, table

WORDS = ("a", "red", "blue", "small", "large", "dog", "cat", "house", "tree", "with", "on", "near", "the", "old", "road", "sky")
WARM_UP = 3


@dataclass
class Talks:
    """Made-up captions of a drawn picture, or conversations, every second of them about it; so many words an answer."""

    words: int
    captions: bool
    name: str = "talks"

    def __post_init__(self) -> None:
        self.picture = next(scenes(1, 0)).draw()

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> Conversation:
        random = Random(index)
        count = max(1, round(random.gauss(self.words, self.words / 4)))
        answer = " ".join(random.choice(WORDS) for _ in range(count))
        if self.captions:
            return caption(self.picture, answer, f"caption {index}")
        asked = (Picture(self.picture), "What is this?") if index % 2 else ("What is this?",)
        return Conversation((Message("user", asked), Message("assistant", (answer,))), name=f"talk {index}")


def stage(name: str, size: str, row: int) -> tuple[Recipe, Talks]:
    """The paper's recipe of a stage, or the tiny one, with packed rows; and what it reads."""
    recipe = getattr(paper, name)() if size == "full" else replace(getattr(tiny, name)(), modules=tiny.PACKABLE)
    talks = Talks(words=32, captions=True) if name == "pretrain" else Talks(words=250, captions=False)
    encoding = replace(recipe.encoding, max_tokens=min(row, 1024), pack=row)
    return replace(recipe, encoding=encoding, frozen_bf16=True, precision="bf16"), talks


def rows(recipe: Recipe, talks: Talks, owl: MplugOwlForConditionalGeneration, count: int) -> list[Batch]:
    """So many packed rows, made as the loop makes them and kept: reading data is measured elsewhere."""
    texts = (talks[index].messages[-1].text for index in range(50))
    # Not `for_model`, which refuses a tokenizer so small beside a model so large: nothing is answered here.
    images = MplugOwlImageProcessor(size=image_size(owl.config.vision_config))
    processor = MplugOwlProcessor(images, learn_tokenizer(texts, 400), owl.num_image_tokens, owl.config.image_token_id)
    encoding: Encoding = recipe.encoding
    assert encoding.pack is not None
    made: list[Batch] = []
    steps = StepDataset(
        Examples([talks], processor, encoding, recipe.seed),
        Mixture([len(talks)], [None], max(1, encoding.pack // 50), recipe.seed),
        micro_batch=1,
    )
    number = 0
    while len(made) < count:
        # The last rows of a step are what was left over.
        made += [batch for batch in steps[number].batches if batch.tokens > 0.8 * encoding.pack]
        number += 1
    return made[:count]


def measure(recipe: Recipe, talks: Talks, arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Build, warm up, take the time of each step: forward and backward through all rows, clipping, AdamW."""
    torch.manual_seed(recipe.seed)
    with device:  # drawn where it will be; on the card fp32 for a moment, then what is frozen becomes bf16
        owl = MplugOwlForConditionalGeneration(recipe.modules.config())
    learner = prepare(owl, recipe)
    parts = table(owl, recipe.trainable)
    set_mode(owl, recipe.trainable)
    if device.type == "cuda":
        use_packed_attention(owl.model.language_model)
    optimizer = make_optimizer(owl, recipe.optimizer)
    batches = rows(recipe, talks, owl, arguments.rows)
    tokens = sum(batch.tokens for batch in batches)
    pictures = sum(0 if batch.pixel_values is None else len(batch.pixel_values) for batch in batches)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times, losses = [], []
    for _ in range(WARM_UP + arguments.steps):
        began = time.perf_counter()
        losses.append(step(learner, batches, optimizer, recipe, device))
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[WARM_UP:])
    utilisation = Utilisation(count_flops(recipe.modules.config(), parts), arguments.tflops)
    return {
        "stage": recipe.name,
        "parameters": sum(part.parameters for part in parts),
        "learned": sum(part.trainable for part in parts),
        "tokens_a_sample": round(tokens / sum(len(batch.names) for batch in batches), 1),
        "tokens_a_second": round(tokens / seconds),
        "samples_a_second": round(sum(len(batch.names) for batch in batches) / seconds, 1),
        "mfu": round(utilisation.mfu(tokens, pictures, seconds), 4),
        "seconds_a_step": round(seconds, 4),
        "spread": [round(min(times[WARM_UP:]), 4), round(max(times[WARM_UP:]), 4)],
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device.type == "cuda" else None,
        "kernel": "varlen" if owl.model.language_model.config._attn_implementation == PACKED else "sdpa",
        "losses": [round(losses[0], 3), round(losses[-1], 3)],
    }


def step(
    learner: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer, recipe: Recipe, device: torch.device
) -> float:
    """One step as the loop takes it, its loss returned; reading the loss waits for the card."""
    learned = sum(batch.supervised for batch in batches)
    total = torch.zeros((), device=device)
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16):
            inputs = batch.to(device).inputs
            loss = learner(**inputs, supervised_only=True, num_items_in_batch=learned, use_cache=False).loss
        loss.backward()
        total += loss.detach()
    clip_gradients(learner, recipe.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item()


def main(arguments: argparse.Namespace) -> None:
    """Print a line of JSON a stage. Leaves with one line where there is no card for the full size."""
    if arguments.size == "full" and not torch.cuda.is_available():
        sys.exit("gpu.py: --size full needs a CUDA device with about 80 GiB; --size tiny runs on any machine")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.row is None:
        arguments.row = 4096 if arguments.size == "full" else 512
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(json.dumps({"machine": machine, "torch": torch.__version__, **vars(arguments)}))
    for name in arguments.stage or ("pretrain", "instruct"):
        print(json.dumps(measure(*stage(name, arguments.size, arguments.row), arguments, device)), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--stage", choices=("pretrain", "instruct"), action="append", help="one of them alone")
    parser.add_argument("--row", type=int, help="positions of a packed row, 4096 unless tiny")
    parser.add_argument("--rows", type=int, default=4, help="rows a step, one forward pass each")
    parser.add_argument("--steps", type=int, default=10, help="steps timed, behind three to warm up")
    parser.add_argument("--tflops", type=float, default=989.0, help="the card's dense bf16 rate")
    main(parser.parse_args())
