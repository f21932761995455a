"""The work that `benchmarks.against` compares: the original's baseline of 263,020,800 parameters, and what each section does.

Sizes: width 768 everywhere, ViT-B/14 at 224 pixels, six abstractor layers, twelve LLaMA layers, 64 queries, 32,000 tokens.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import GenerationConfig

from mplug_owl.chat.decode import Prompt, decode
from mplug_owl.model.build import count
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.recipes import tiny
from mplug_owl.train.half import HalfWeights
from mplug_owl.train.quick import quick_passes
from mplug_owl.train.recipe import LoRA, Recipe, Trainable
from mplug_owl.train.trainable import prepare, set_mode

PARAMETERS, VOCABULARY, PICTURE, PADDED = 263_020_800, 32_000, 65, 512
# Words of a caption of Conceptual Captions (Sharma et al., ACL 2018), and LLaMA's tokens to an English word.
CAPTION_WORDS, TOKENS_A_WORD = (10.3, 4.5), 1.4
# LLaVA-Instruct-150K: records and tokens of text of its three files, from their sizes in its Data.md (126, 20.5 and 79.6 MB):
# bytes a record without the JSON around them, at 3.9 characters a token. Each varies by a quarter.
CONVERSATIONS = ((56_681, 390), (23_240, 160), (76_643, 200))
SYSTEM = 35  # tokens of the system sentence and the roles

STAGE_1 = Trainable("full", "full", "frozen")
STAGE_2 = Trainable("frozen", "frozen", "lora")


@dataclass(frozen=True)
class Step:
    """A training step: positions of each sample, one picture in each, and who learns."""

    lengths: tuple[int, ...]
    trainable: Trainable
    packed: bool = False

    @property
    def rows(self) -> int:
        """Supervised positions: every word after the picture."""
        return sum(length - 1 - PICTURE for length in self.lengths)


def caption_lengths(samples: int) -> tuple[int, ...]:
    """Positions of so many captions, their pictures' included, the same ones always."""
    drawn = random.Random(0)
    words = (max(3, round(drawn.gauss(*CAPTION_WORDS))) for _ in range(samples))
    return tuple(2 + PICTURE + round(TOKENS_A_WORD * count) for count in words)


def conversation_lengths(samples: int) -> tuple[int, ...]:
    """Positions of so many conversations about a picture, cut at 512 as the original would."""
    drawn = random.Random(0)
    means = drawn.choices([mean for _, mean in CONVERSATIONS], [records for records, _ in CONVERSATIONS], k=samples)
    return tuple(min(PADDED, PICTURE + SYSTEM + round(drawn.gauss(mean, mean / 4))) for mean in means)


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
            "vocab_size": VOCABULARY,
        },
    )


def made() -> MplugOwlForConditionalGeneration:
    """The owl with random weights."""
    torch.manual_seed(0)
    owl = MplugOwlForConditionalGeneration(owl_263m())
    if (found := count(owl)) != PARAMETERS:
        raise ValueError(f"{found:,} parameters; the baseline has {PARAMETERS:,}")
    return owl


def recipe_of(step: Step, precision: str) -> Recipe:
    """What the paper's stages say about who learns, at this precision."""
    recipe = replace(tiny.pretrain(), precision=precision, trainable=step.trainable, attention=None)
    return replace(recipe, lora=LoRA(rank=8, alpha=32, dropout=0.05))


def inputs_of(step: Step) -> dict[str, Tensor]:
    """Ids, labels and pixels of a step: equal lengths below each other, others end to end in one row."""
    torch.manual_seed(1)
    rows = []
    for length in step.lengths:
        ids = torch.randint(3, VOCABULARY, (length,))
        ids[1 : 1 + PICTURE] = 1 << 17
        rows.append(ids)
    ids = torch.cat(rows)[None] if step.packed else torch.stack(rows)
    ids = ids.masked_fill(ids == 1 << 17, owl_263m().image_token_id)
    labels = ids.masked_fill(ids == owl_263m().image_token_id, -100)
    inputs = {"input_ids": ids, "labels": labels, "pixel_values": torch.randn(len(rows), 3, 224, 224)}
    if step.packed:
        starts = torch.tensor(step.lengths).cumsum(0) - torch.tensor(step.lengths)
        labels[0, starts] = -100
        inputs["position_ids"] = torch.cat([torch.arange(length) for length in step.lengths])[None]
    else:
        labels[:, 0] = -100
    return inputs


def our_step(step: Step, precision: str) -> Callable[[], float]:
    """Forward and backward as the training loop makes them; returns the loss."""
    owl, recipe = made(), recipe_of(step, precision)
    learner = prepare(owl, recipe)
    set_mode(owl, recipe.trainable)
    trains = ExitStack()
    quick = trains.enter_context(quick_passes(learner, owl))
    trains.enter_context(HalfWeights(learner, precision == "bf16", quick))
    inputs = inputs_of(step)

    def run(trains: ExitStack = trains) -> float:  # which stays open as long as this is there
        learner.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = learner(**inputs, loss_only=True, use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    return run


def our_look(pictures: int, precision: str) -> Callable[[], object]:
    """f_V and f_K for so many pictures."""
    owl = made().eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)
    pixels = torch.randn(pictures, 3, 224, 224)
    return lambda: torch.no_grad()(owl.get_image_features)(pixels)


def our_words(batch: int, words: int, precision: str) -> Callable[[], object]:
    """So many greedy words after a prompt of 128 positions with a picture, for each row of a batch; looking included."""
    owl = made().eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)
    inputs = inputs_of(Step((128,) * batch, STAGE_2))
    prompts = [Prompt(ids.tolist()) for ids in inputs["input_ids"]]
    config = GenerationConfig(do_sample=False, max_new_tokens=words, eos_token_id=None, pad_token_id=0)

    def look(_: Sequence[object]) -> Tensor | None:
        return owl.get_image_features(inputs["pixel_values"].to(owl.dtype)).pooler_output

    def run() -> list[tuple[int, list[int]]]:
        with torch.no_grad():
            said = list(decode(owl, prompts, look, config, lambda ids: len(ids) >= words, batch))
        if any(len(ids) != words for _, ids in said):
            raise ValueError("an answer of another length than was asked for")
        return said

    return run
