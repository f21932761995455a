"""How large a step is and how many there are: what a recipe leaves to the data is settled before the first step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mplug_owl.data.mixture import Mixture
from mplug_owl.data.survey import Lengths, Survey
from mplug_owl.errors import UserError
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.train.recipe import BEFORE, Recipe


def resolve_batch_size(
    recipe: Recipe,
    survey: Survey,
    processor: MplugOwlProcessor,
    saved: Mapping[str, object] | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> tuple[Recipe, Mixture]:
    """The recipe with the `batch` and `steps` that it leaves to the data, and the mixture of its samples.

    A step holds as many samples as come to `batch_tokens` on average. By the law of large numbers a step of 2.1 M tokens is
    then within one percent of it, and which samples it has depends on its number alone. `saved` are the values of a run that
    is resumed: its batch is taken, not measured again.
    """
    text = text_only(recipe, survey, note)
    held = BEFORE["Recipe", "order_in_memory"]
    if saved is not None and "order" not in saved and max(survey.sizes) > held:
        note(f"sources of more than {held:,} records come in another order than when this run was begun, from the next step on")
    batch = recipe.batch
    if batch is None and saved is not None and saved.get("batch_tokens") == recipe.batch_tokens:
        batch = measured if isinstance(measured := saved.get("batch"), int) else None
    if batch is None:
        mean, tokens = mean_sample(recipe, survey, processor, text), recipe.batch_tokens or 0
        batch = max(1, round(tokens / mean.tokens))
        note(f"{batch:,} samples a step come to {tokens:,} tokens: {mean.tokens:.1f} a sample, measured on {mean.measured:,}")
    steps = recipe.steps
    if steps is None:
        steps = steps_of(recipe, survey.sizes, batch)
        note(f"{recipe.epochs:g} epochs of {sum(survey.sizes):,} records are {steps:,} steps of {batch:,} samples")
    return replace(recipe, batch=batch, steps=steps, epochs=None), _mixture(recipe, survey, batch, text)


def steps_of(recipe: Recipe, sizes: Sequence[int], batch: float) -> int:
    """The steps of a recipe: its own, or those in which as many samples are learned as its epochs have records."""
    if recipe.steps is not None:
        return recipe.steps
    return max(1, math.ceil((recipe.epochs or 0.0) * sum(sizes) / batch))


def mean_sample(recipe: Recipe, survey: Survey, processor: MplugOwlProcessor, text: Sequence[bool] | None) -> Lengths:
    """The mean sample of a recipe's mixture, measured on the data."""
    many = 10_000  # a number of samples that every share can be read from
    shares = _mixture(recipe, survey, many, text).due / many
    return survey.lengths(shares.tolist(), processor, recipe.encoding, recipe.seed)


def text_only(recipe: Recipe, survey: Survey, note: Callable[[str], None] = lambda sentence: None) -> tuple[bool, ...] | None:
    """Which sources are text alone, where the recipe gives these a share. Mixed ones count among those with pictures.

    Raises UserError where one kind is missing.
    """
    if recipe.text_share is None:
        return None
    shown = [share * recipe.encoding.pictures for share in survey.pictured]
    text = tuple(not share for share in shown)
    names = [source.name for source in survey.sources]
    if all(text) or not any(text):
        have, add = ("no pictures", "with pictures") if all(text) else ("pictures", "of text alone")
        raise UserError(
            f"text_share={recipe.text_share:g} needs sources of text alone and sources with pictures, and "
            f"{', '.join(names)} have {have}: add one {add}, or --set text_share=none"
        )
    for name, share in zip(names, shown, strict=True):
        if 0 < share < 1:
            note(f"{name}: {share:.0%} of its records show pictures; text_share counts it among those that do")
    return text


def _mixture(recipe: Recipe, survey: Survey, batch: int, text: Sequence[bool] | None) -> Mixture:
    blocks = survey.blocks if recipe.order == "blocks" else None
    share, held = recipe.text_share or 0.0, recipe.order_in_memory
    return Mixture(survey.sizes, survey.weights, batch, recipe.seed, text, share, blocks, held)
