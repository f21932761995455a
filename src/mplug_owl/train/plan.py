"""What a run will cost, before it is paid: parameters, tokens, FLOPs, memory, time. Nothing is trained or downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mplug_owl.data.survey import Lengths, Survey
from mplug_owl.errors import UserError
from mplug_owl.model.build import count
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.quantised import BYTES, linear_weights
from mplug_owl.train.activations import activation_bytes
from mplug_owl.train.batch_size import mean_sample, steps_of, text_only
from mplug_owl.train.flops import Flops, count_flops
from mplug_owl.train.objective import add_objective
from mplug_owl.train.optim import muon_matrices
from mplug_owl.train.recipe import Recipe, override
from mplug_owl.train.trainable import Part, prepare, table


@dataclass(frozen=True)
class Device:
    """What a run is planned for, an H200 unless said: `tflops` is the datasheet's dense bf16 rate, `mfu` the share reached."""

    tflops: float = 989.0
    memory_gib: float = 141 * 1e9 / 2**30
    mfu: float = 0.4
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """Costs of one stage: tokens and pictures a sample, FLOPs, bytes by part on one device.

    `pictures_at_once` go through in one forward pass.
    """

    recipe: Recipe
    parts: tuple[Part, ...]
    positions_per_picture: int
    tokens_per_sample: float
    pictures_per_sample: float
    pictures_at_once: float
    measured: bool
    flops_each: Flops
    memory: dict[str, float]

    @property
    def steps(self) -> int:
        """Steps of the run; those of its epochs are computed by now."""
        return self.recipe.steps or 0

    @property
    def samples_per_step(self) -> float:
        """Samples of a step, as many as come to its tokens where the recipe counts these."""
        return self.recipe.batch or (self.recipe.batch_tokens or 0) / self.tokens_per_sample

    @property
    def tokens_per_step(self) -> float:
        """Positions a step reads, padding included where nothing was measured."""
        return self.tokens_per_sample * self.samples_per_step

    @property
    def flops_per_sample(self) -> float:
        """Floating-point operations of one sample."""
        return self.flops_each(self.tokens_per_sample, self.pictures_per_sample)

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole run."""
        return self.flops_per_sample * self.samples_per_step * self.steps

    @property
    def gib(self) -> float:
        """Memory on one device, all parts together."""
        return sum(self.memory.values()) / 2**30

    def hours(self, device: Device) -> float:
        """Time on `device.count` devices at the stated share of their rate."""
        return self.flops / (device.tflops * 1e12 * device.mfu * device.count) / 3600


def plan(recipe: Recipe, survey: Survey | None = None, processor: MplugOwlProcessor | None = None) -> Plan:
    """Plan a recipe on the meta device. With data and a processor, tokens and pictures a sample are measured on the data.

    Without, every sample is taken as `max_tokens` long with one picture: an upper bound. Where tokens make the step, or fill a
    packed row, shorter samples are more samples with more pictures: then nothing but pictures is the bound.
    """
    mean = None
    if survey is not None and processor is not None:
        mean = mean_sample(recipe, survey, processor, text_only(recipe, survey))
    model, parts = _prepared(recipe)
    most = recipe.encoding.pictures * recipe.encoding.max_tokens / model.num_image_tokens  # pictures that fit a sample
    known = mean or Lengths(recipe.encoding.max_tokens, float(recipe.encoding.pictures) if recipe.batch else most, 0)
    recipe = _with_steps(recipe, survey, known)
    packed = mean is None and recipe.encoding.pack is not None
    at_once = samples_at_once(recipe, known.tokens) * (most if packed else known.pictures)
    memory = _memory(model, recipe, parts, known.tokens, at_once)
    each = count_flops(recipe.modules.config(), parts, recipe.objective)
    return Plan(recipe, parts, model.num_image_tokens, known.tokens, known.pictures, at_once, mean is not None, each, memory)


def sample_flops(recipe: Recipe, words: float, pictures: float) -> float:
    """Operations of a sample of so many tokens beside so many pictures, without a plan's memory, which takes seconds."""
    model, parts = _prepared(recipe)
    each = count_flops(recipe.modules.config(), parts, recipe.objective)
    return each(words + model.num_image_tokens * pictures, pictures)


def _with_steps(recipe: Recipe, survey: Survey | None, mean: Lengths) -> Recipe:
    """The recipe with the steps that its epochs come to. Raises UserError where the data that say so are not there."""
    if recipe.epochs is None:
        return recipe
    if survey is None:
        raise UserError("epochs: how many steps they are depends on the data; give --data FORMAT:PATH, or --set steps=NUMBER")
    batch = recipe.batch or (recipe.batch_tokens or 0) / mean.tokens
    return replace(recipe, steps=steps_of(recipe, survey.sizes, batch), epochs=None)


def gib_with(made: Plan, *settings: str) -> float:
    """GiB of the same plan under `--set` settings. Activations are counted anew, for seconds, only where they change."""
    recipe, tokens = made.recipe, made.tokens_per_sample
    changed = override(recipe, settings)
    more = samples_at_once(changed, tokens) / samples_at_once(recipe, tokens)
    if replace(changed, micro_batch=recipe.micro_batch, encoding=recipe.encoding) == recipe:
        return made.gib - (made.memory["activations"] + made.memory["logits"]) * (1 - more) / 2**30
    model, parts = _prepared(changed)
    return sum(_memory(model, changed, parts, tokens, made.pictures_at_once * more).values()) / 2**30


def samples_at_once(recipe: Recipe, tokens: float) -> float:
    """Samples of so many tokens that a forward pass takes: a micro-batch, or what a packed row has room for."""
    return recipe.micro_batch if recipe.encoding.pack is None else max(1.0, recipe.encoding.pack / tokens)


def _prepared(recipe: Recipe) -> tuple[MplugOwlForConditionalGeneration, tuple[Part, ...]]:
    """The recipe's model on the meta device, and who learns in it."""
    with torch.device("meta"):
        model = MplugOwlForConditionalGeneration(recipe.modules.config())
        add_objective(model, recipe)
    prepare(model, recipe)
    return model, tuple(table(model, recipe.trainable))


def _frozen_bytes(model: MplugOwlForConditionalGeneration, recipe: Recipe, frozen: int) -> float:
    """Bytes of what does not learn: in 32 bits, in 16, and of a quantised language model its linear layers in 8 or 4."""
    each = 2.0 if recipe.frozen_bf16 else 4.0
    if recipe.base is None:
        return each * frozen
    small = linear_weights(model)
    return each * (frozen - small) + BYTES[recipe.base] * small


def _averages(model: MplugOwlForConditionalGeneration, recipe: Recipe, trainable: int) -> dict[str, float]:
    """Bytes of what the optimiser remembers: AdamW two numbers a weight, Muon one."""
    if not recipe.optimizer.muon:
        return {"AdamW's two averages": 8.0 * trainable}
    theirs = muon_matrices(model)
    once = sum(weight.numel() for weight in model.parameters() if weight.requires_grad and id(weight) in theirs)
    return {"averages, Muon's and AdamW's": 4.0 * once + 8.0 * (trainable - once)}


def _memory(
    model: MplugOwlForConditionalGeneration, recipe: Recipe, parts: Sequence[Part], tokens: float, pictures: float
) -> dict[str, float]:
    """Bytes by part at the peak: when a step's last backward pass begins, beside the gradients of those before it.

    `tokens` are those of a sample, `pictures` those of a forward pass.
    """
    trainable = sum(part.trainable for part in parts)
    frozen = count(model) - trainable
    element = 2 if recipe.precision == "bf16" else 4
    samples = samples_at_once(recipe, tokens)
    words = tokens if recipe.objective == "generation" else max(1.0, tokens - model.num_image_tokens)
    language, vision = activation_bytes(model, recipe, max(1, round(tokens)))
    sizes = {
        "weights that learn": 4.0 * trainable,
        "weights that are frozen": _frozen_bytes(model, recipe, frozen),
        "gradients": 4.0 * trainable,
        **_averages(model, recipe, trainable),
        "activations": samples * language + pictures * vision,
        # The loss is taken in fp32: scores, their softmax and its gradient.
        "logits": samples * words * model.config.text_config.vocab_size * (element + 4.0 + 4.0),
    }
    if recipe.precision == "bf16":
        sizes["bf16 copies of what learns"] = 2.0 * trainable
    return sizes
