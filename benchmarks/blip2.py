"""BLIP-2's first step at a laptop's size: does a Q-Former that learned from pairs tell which text belongs to which picture?

    python -m benchmarks.blip2 [--steps 500] [--out runs/blip2] [--batches 32]

Trains `tiny_paradigms.blip2_first` in batches of 32, on one thread, into `--out`; run again it resumes, or only measures. Then
captions of scenes that no training had are matched with their pictures, 32 at a time, by the similarity that contrast learns.
A picture is right where its own caption is the most similar of the batch, and a caption where its own picture is. Where several
are equally similar, as two captions that are the same words, a picture counts as the share that a blind choice among them gets.
The bar is held to by the worse of the two directions.

Beside it: captions of scenes where more is written, of colours with shapes that training never shows together, and all unseen
scenes at once.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from benchmarks.command import count, machine, run
from mplug_owl.conversation import caption
from mplug_owl.errors import UserError
from mplug_owl.model.blip2 import load_text_side, similarities, text_side, texts_of
from mplug_owl.model.load import Owl, load
from mplug_owl.model.towers import encode_images
from mplug_owl.recipes import tiny_paradigms
from mplug_owl.scenes.world import Scene, scene
from mplug_owl.train.recipe import Recipe, Schedule
from mplug_owl.train.resume import saved_values
from mplug_owl.train.run import train

BAR, BATCH, STEPS = 90.0, 32, 500
# Of the exam's scenes; lessons draw theirs from other seeds, of 2**48.
SCENES_SEED = 1729


@dataclass(frozen=True)
class Accuracy:
    """Percent correct in batches: the caption of a picture, the picture of a caption. `same` captions are another's."""

    captions: float
    pictures: float
    same: int
    pairs: int


def recipe(steps: int) -> Recipe:
    """The first step with the batch of the bar, resumable, its numbers independent of the machine's cores."""
    made = tiny_paradigms.blip2_first()
    return replace(
        made,
        name="blip2",
        steps=steps,
        schedule=Schedule(warmup_steps=min(30, steps // 4)),
        batch=BATCH,
        micro_batch=BATCH,
        threads=1,
        save_every=50,
    )


def shares(similar_IJ: Tensor) -> Tensor:
    """Of each row the chance that a choice among its most similar columns is its own, the one of the row's number."""
    most_IJ = similar_IJ == similar_IJ.amax(1, keepdim=True)
    return most_IJ.diagonal().double() / most_IJ.sum(1)


@torch.no_grad()
def measured(owl: Owl, shown: Sequence[Scene], size: int = BATCH) -> Accuracy:
    """Both directions over these scenes, so many at a time."""
    captions, pictures, same = list[Tensor](), list[Tensor](), 0
    for first in range(0, len(shown), size):
        few = shown[first : first + size]
        told = [one.caption for one in few]
        same += sum(told.count(words) > 1 for words in told)
        examples = [owl.processor.encode(caption(one.draw(), one.caption)) for one in few]
        batch = owl.processor.batch(examples, side="right", labels=True)
        patches_IPD = encode_images(owl.model.model.vision_tower, batch["pixel_values"]).last_hidden_state
        qformer = owl.model.model.abstractor
        similar_II = similarities(qformer, text_side(owl.model), patches_IPD, *texts_of(batch["labels"]))
        captions.append(shares(similar_II))
        pictures.append(shares(similar_II.T))
    return Accuracy(100 * torch.cat(captions).mean().item(), 100 * torch.cat(pictures).mean().item(), same, len(shown))


def drawn(split: str, count: int) -> list[Scene]:
    """Scenes of a split."""
    random = Random(f"{SCENES_SEED} {split}")
    return [scene(random.randrange(2**48), split) for _ in range(count)]


def main() -> None:
    """Train what is missing, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=count, default=STEPS, help="steps of 32 pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/blip2"))
    parser.add_argument("--batches", type=count, default=32, help="batches of 32 unseen pairs of each kind")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if (done := (saved_values(given.out) or {}).get("steps", given.steps)) != given.steps:
        raise UserError(f"{given.out} is a run of {done} steps; give --steps {done}, or another --out")
    print(f"{machine()}; {given.steps} steps of {BATCH} pairs, one thread")
    if not (given.out / "text_side.safetensors").exists():
        train(recipe(given.steps), given.out, resume=(given.out / "recipe.json").exists())
    owl = load(given.out, device="cpu", dtype="float32")
    load_text_side(owl.model, given.out / "text_side.safetensors")
    owl.model.eval()
    pairs = BATCH * given.batches
    asked = (
        ("seen", BATCH, "unseen scenes"),
        ("letters", BATCH, "more is written"),
        ("combinations", BATCH, "unseen combinations"),
        ("seen", pairs, "all at once"),
    )
    for split, size, kind in asked:
        found = measured(owl, drawn(split, pairs), size)
        worse = min(found.captions, found.pictures)
        verdict = "no bar" if kind != "unseen scenes" else f"bar {BAR:.0f}: {'reached' if worse >= BAR else 'missed'}"
        print(
            f"{kind:<20} caption of a picture {found.captions:5.1f} %, picture of a caption {found.pictures:5.1f} %, "
            f"{found.pairs} pairs, {size} at a time, {found.same} captions not alone in their batch; {verdict}"
        )


if __name__ == "__main__":
    run(main)
