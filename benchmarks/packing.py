"""Stage 1 on captions of real lengths: how even steps of 2.1 M tokens are, how much padding is left, how much faster packed
rows are than padded ones.

Captions are drawn with the word counts of Conceptual Captions (Sharma et al., ACL 2018: mean 10.3, deviation 4.5 words) over
drawn scenes. Padded means every sample at `--limit` positions, as the paper's appendix counts its batches.

    python -m benchmarks.packing [--limit 512] [--samples 96] [--steps 20]
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from benchmarks.command import count, machine
from mplug_owl.conversation import Conversation, caption
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import Batch, StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.survey import Survey
from mplug_owl.model.build import build
from mplug_owl.recipes import paper, tiny
from mplug_owl.scenes import scenes
from mplug_owl.train.batch_size import resolve_batch_size
from mplug_owl.train.trainable import prepare, set_mode

WORDS = ("a", "red", "blue", "small", "large", "dog", "cat", "house", "tree", "with", "on", "near", "the", "old", "road", "sky")


@dataclass
class Captions:
    """As many made-up captions of real lengths, each for a drawn picture, or for one that nobody opens."""

    count: int
    drawn: bool = True
    name: str = "captions"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Conversation:
        random = Random(index)
        length = max(3, round(random.gauss(10.3, 4.5)))
        picture = next(scenes(1, index)).draw() if self.drawn else Path("nowhere.png")
        return caption(picture, " ".join(random.choice(WORDS) for _ in range(length)) + ".", f"caption {index}")


def padded_to(batch: Batch, limit: int, pad: int) -> Batch:
    """The same rows with every one at `limit` positions."""
    grow = (0, limit - batch.input_ids.shape[1])
    fill = torch.nn.functional.pad
    assert batch.attention_mask is not None
    return Batch(
        fill(batch.input_ids, grow, value=pad),
        fill(batch.labels, grow, value=-100),
        fill(batch.attention_mask, grow, value=0),
        None,
        batch.pixel_values,
        batch.names,
        batch.cut,
    )


def even(steps: int) -> None:
    """Print how far steps of paper.pretrain are from their 2.1 M tokens, a picture at the paper's 65 positions."""
    recipe, sources = paper.pretrain(), [Captions(1_000_000, drawn=False)]
    processor = build(tiny.PACKABLE, (talk.answers[0] for talk in (sources[0][i] for i in range(500))), 0).processor
    processor.num_image_tokens = 65
    began = time.perf_counter()
    settled, mixture = resolve_batch_size(recipe, Survey(sources), processor)
    print(f"measured in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    numbers = [*range(steps - 1), 10_000]
    mixture.step(numbers[-1])
    print(f"step {numbers[-1]:,} planned from nothing in {time.perf_counter() - began:.2f} s")
    off = []
    examples = Examples(sources, processor, settled.encoding, seed=0)
    for number in numbers:
        tokens = sum(len(examples[sample]) for sample in mixture.step(number))
        off.append(tokens / recipe.batch_tokens - 1)
    print(f"{steps} steps of {recipe.batch_tokens:,} tokens: {min(off):+.2%} to {max(off):+.2%} off (bar: 1 %)")


def learn(learner: torch.nn.Module, batches: Sequence[Batch]) -> tuple[float, float]:
    """Seconds of forward and backward through these batches, and the loss."""
    learner.zero_grad(set_to_none=True)
    learned = sum(batch.supervised for batch in batches)
    began, loss = time.perf_counter(), 0.0
    for batch in batches:
        part = learner(**batch.inputs, supervised_only=True, num_items_in_batch=learned, use_cache=False).loss
        part.backward()
        loss += part.item()
    return time.perf_counter() - began, loss


def main(limit: int, samples: int, repeats: int = 3) -> dict[str, tuple[float, float, float]]:
    """Print, and return, the share of padding, samples a second and the loss, padded and packed."""
    torch.set_num_threads(1)
    source = Captions(samples)
    recipe = replace(tiny.pretrain(), modules=tiny.PACKABLE)
    owl = build(recipe.modules, (talk.answers[0] for talk in (source[i] for i in range(samples))), seed=0)
    learner = prepare(owl.model, recipe)
    set_mode(owl.model, recipe.trainable)
    mixture = Mixture([samples], [None], samples, seed=0)
    ways: dict[str, list[Batch]] = {}
    for way, pack in (("padded", None), ("packed", 2048)):
        steps = StepDataset(Examples([source], owl.processor, Encoding(limit, pack=pack), seed=0), mixture, micro_batch=16)
        pad = owl.processor.tokenizer.pad_token_id
        ways[way] = [batch if pack else padded_to(batch, limit, pad) for batch in steps[0].batches]
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(repeats):  # in turn, so that a busy minute slows both
        for way, batches in ways.items():
            taken[way].append(learn(learner, batches))
    results = {}
    for way, batches in ways.items():
        seconds, loss = statistics.median(taking for taking, _ in taken[way]), taken[way][-1][1]
        places = sum(batch.input_ids.numel() for batch in batches)
        tokens = sum(batch.tokens for batch in batches)
        results[way] = 1 - tokens / places, samples / seconds, loss
        print(f"{way}: {results[way][0]:.2%} padding, {results[way][1]:.1f} samples/s, loss {loss:.6f}")
    print(f"packed over padded to {limit}: {results['packed'][1] / results['padded'][1]:.1f} x (bar: 3)")
    print(f"losses differ by {abs(results['packed'][2] - results['padded'][2]):.1e} (bar: 1e-5)")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=count, default=512)
    parser.add_argument("--samples", type=count, default=96)
    parser.add_argument("--steps", type=count, default=20)
    arguments = parser.parse_args()
    print(f"{machine()}; one thread")
    even(arguments.steps)
    main(arguments.limit, arguments.samples)
