"""What the steps of a run are made of, settled before the first: how many samples, and how many of them are text alone."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mplug_owl.data.examples import Examples
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import Source
from mplug_owl.data.survey import Lengths, lengths, pictured
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.train.recipe import Recipe

Weights = Sequence[float | None]


def resolve_batch_size(
    recipe: Recipe,
    sources: Sequence[Source],
    weights: Weights | None,
    processor: MplugOwlProcessor,
    before: Path | None = None,
    note: Callable[[str], None] = print,
) -> tuple[Recipe, Mixture]:
    """The recipe with its `batch` measured where it leaves that to the data, and the mixture of its samples.

    `before` is a run to go on with, whose recipe.json says what was measured for it.

    As many samples as come to `batch_tokens` on average: by the law of large numbers a step of 2.1 M tokens is then within
    one percent of it, and which samples it has depends on its number alone.
    """
    text = text_alone(recipe, sources, note)
    batch = recipe.batch or (_measured_before(recipe, before) if before is not None else None)
    if batch is None:
        mean, tokens = mean_sample(recipe, sources, weights, processor, text), recipe.batch_tokens or 0
        batch = max(1, round(tokens / mean.tokens))
        note(f"{batch:,} samples a step come to {tokens:,} tokens: {mean.tokens:.1f} a sample, measured on {mean.measured:,}")
    return replace(recipe, batch=batch), _mixture(recipe, sources, weights, batch, text)


def mean_sample(
    recipe: Recipe,
    sources: Sequence[Source],
    weights: Weights | None,
    processor: MplugOwlProcessor,
    text: Sequence[bool] | None,
) -> Lengths:
    """The mean sample of a recipe's mixture, measured on the data."""
    many = 10_000  # a number of samples that every share can be told by
    shares = _mixture(recipe, sources, weights, many, text).due / many
    return lengths(Examples(sources, processor, recipe.encoding, recipe.seed), shares.tolist())


def text_alone(
    recipe: Recipe, sources: Sequence[Source], note: Callable[[str], None] = lambda sentence: None
) -> tuple[bool, ...] | None:
    """Which sources are text alone, where the recipe gives these a share. Mixed ones count among those with pictures.

    Raises ValueError where one kind is missing.
    """
    if recipe.text_share is None:
        return None
    shown = [pictured(source) * recipe.encoding.pictures for source in sources]
    text = tuple(not share for share in shown)
    if all(text) or not any(text):
        have, add = ("no pictures", "with pictures") if all(text) else ("pictures", "of text alone")
        raise ValueError(
            f"text_share={recipe.text_share:g} needs sources of text alone and sources with pictures, and "
            f"{', '.join(source.name for source in sources)} have {have}: add one {add}, or --set text_share=none"
        )
    for source, share in zip(sources, shown, strict=True):
        if 0 < share < 1:
            note(f"{source.name}: {share:.0%} of its records show pictures; text_share counts it among those that do")
    return text


def _mixture(
    recipe: Recipe, sources: Sequence[Source], weights: Weights | None, batch: int, text: Sequence[bool] | None
) -> Mixture:
    sizes = [len(source) for source in sources]
    return Mixture(sizes, weights or [None] * len(sizes), batch, recipe.seed, text, recipe.text_share or 0.0)


def _measured_before(recipe: Recipe, run: Path) -> int | None:
    """The batch that a run of this many tokens a step was settled on, None where there is no such run."""
    try:
        held = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held.get("batch") if held.get("batch_tokens") == recipe.batch_tokens else None
