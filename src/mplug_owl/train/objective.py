"""What a run learns by: the next word, or the three losses of BLIP-2's first step (`model/blip2.py`).

An objective is a module in the model's place: the loop gives it a batch and takes its loss, as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from mplug_owl.errors import UserError
from mplug_owl.model.blip2 import FirstStep, add_text_side, joint, matching, similarities, text_side
from mplug_owl.model.connectors import QFormer

if TYPE_CHECKING:
    from mplug_owl.model.owl import MplugOwlForConditionalGeneration
    from mplug_owl.train.recipe import Recipe

Objective = Literal["generation", "blip2"]
# Pairs that matching reads for one pair of a batch: the right one, a wrong picture and a wrong text.
MATCHED = 3
# How often the Q-Former reads a picture, and a text: to contrast, to match, to write.
READINGS = 1 + MATCHED + 1


def check_objective(recipe: Recipe) -> None:
    """Raises UserError that names each setting which does not fit the recipe's objective.

    BLIP-2's first step compares the pictures of a forward pass with their texts, and the language model takes no part.
    """
    if recipe.objective == "generation":
        return
    encoding, who = recipe.encoding, recipe.trainable
    fits = {
        "trainable.vision=frozen or full": who.vision != "lora",
        "trainable.abstractor=full": who.abstractor == "full",
        "trainable.language=frozen": who.language == "frozen",
        "encoding.pictures=true": encoding.pictures,
        "encoding.pack=none": encoding.pack is None,
        "encoding.learn=answers": encoding.learn == "answers",
        "encoding.weigh=tokens": encoding.weigh == "tokens",
        "text_share=none": recipe.text_share is None,
        "gradient_checkpointing=false": not recipe.gradient_checkpointing,
    }
    if wrong := [setting for setting, right in fits.items() if not right]:
        raise UserError(f"objective=blip2 teaches a Q-Former from pairs of a picture and its text; set {', '.join(wrong)}")
    if recipe.micro_batch < 2:
        raise UserError(f"micro_batch is {recipe.micro_batch}; objective=blip2 compares the pairs of a pass: 2 or more")


def add_objective(model: MplugOwlForConditionalGeneration, recipe: Recipe) -> None:
    """Give the model what its objective learns beside it: BLIP-2's Q-Former a text side, drawn from torch's generator.

    Raises UserError where the connector is no Q-Former.
    """
    if recipe.objective == "blip2":
        add_text_side(model, recipe.encoding.max_tokens)


def with_objective(learner: nn.Module, model: MplugOwlForConditionalGeneration, recipe: Recipe) -> nn.Module:
    """What a batch is given to: the learner itself, or BLIP-2's first step around it."""
    return FirstStep(model) if recipe.objective == "blip2" else learner


def read_pairs(model: MplugOwlForConditionalGeneration, patches_IPD: Tensor, words: int) -> Tensor:
    """All that pairs go through in the first step, without its losses, texts as long as said: to be counted.

    Wrong pairs are as many as a batch has and are not drawn, so tensors may have shapes alone. Returns a loss's stand-in.
    """
    qformer, side = cast(QFormer, model.model.abstractor), text_side(model)
    ids_IL = torch.zeros(len(patches_IPD), words, dtype=torch.long, device=patches_IPD.device)
    read_IL = torch.ones(len(patches_IPD), words, dtype=torch.bool, device=patches_IPD.device)
    similar_II = similarities(qformer, side, patches_IPD, ids_IL, read_IL)
    many = (patches_IPD.repeat(MATCHED, 1, 1), ids_IL.repeat(MATCHED, 1), read_IL.repeat(MATCHED, 1))
    matches_K2 = matching(qformer, side, *many)
    written_ILD = joint(qformer, side, patches_IPD, ids_IL, read_IL, "multimodal causal")[1]
    scores_ILV = side.scores(written_ILD)
    return similar_II.sum() + matches_K2.sum() + scores_ILV.sum()
