"""What a run will cost, before it is paid: parameters, tokens, FLOPs, memory, time. Nothing is trained or downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console, Group, RenderableType
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.data.encode import encode
from mplug_owl.data.sources import Source
from mplug_owl.model.build import count
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import image_size, look
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.trainable import Part, prepare, table

# Bytes of activations that a transformer layer keeps for its backward pass, a token and unit of width, in 16 bits and with
# fused attention: Korthikanti et al. (arXiv 2205.05198), equation 2, less the attention scores.
KEPT_BYTES = 34
# Without weight gradients the inputs of the linears need not be kept; norms, attention and activations remain. An estimate.
KEPT_BYTES_FROZEN = 20


@dataclass(frozen=True)
class Device:
    """What a run is planned for, an H200 unless said: `tflops` is the datasheet's dense bf16 rate, `mfu` the share reached."""

    tflops: float = 989.0
    memory_gib: float = 141 * 1e9 / 2**30
    mfu: float = 0.4
    count: int = 1


@dataclass(frozen=True)
class Plan:
    """Costs of one stage: FLOPs in all, tokens a sample and a step, bytes by part on one device."""

    recipe: Recipe
    parts: tuple[Part, ...]
    positions_per_picture: int
    tokens_per_sample: float
    pictures_per_sample: float
    measured: bool
    flops_per_sample: float
    memory: dict[str, float]

    @property
    def tokens_per_step(self) -> float:
        """Positions a step reads, padding included where nothing was measured."""
        return self.tokens_per_sample * self.recipe.batch

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole run."""
        return self.flops_per_sample * self.recipe.batch * self.recipe.steps

    def hours(self, device: Device) -> float:
        """Time on `device.count` devices at the stated share of their rate."""
        return self.flops / (device.tflops * 1e12 * device.mfu * device.count) / 3600


def plan(recipe: Recipe, sources: Sequence[Source] = (), processor: object | None = None, sample: int = 200) -> Plan:
    """Plan a recipe on the meta device. With sources and a processor, tokens and pictures a sample are measured on the data.

    Without, every sample is taken as `max_tokens` long with one picture: an upper bound.
    """
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(recipe.modules.config())
    picture = _picture_flops(owl.requires_grad_(False))
    prepare(owl, recipe)
    parts = tuple(table(owl, recipe.learners))
    tokens, pictures, measured = float(recipe.encoding.max_tokens), float(recipe.encoding.pictures), False
    if sources and processor is not None:
        how = recipe.encoding
        talks = [source[i] for source in sources for i in range(min(len(source), sample))]
        examples = [encode(talk, processor, how.max_tokens, how.learn, how.pictures, how.style) for talk in talks]
        tokens = sum(len(example) for example in examples) / len(examples)
        pictures = sum(len(example.pictures) for example in examples) / len(examples)
        measured = True
    flops = _flops(owl, parts, tokens, pictures, picture)
    memory = _memory(owl, recipe, parts, tokens, pictures)
    return Plan(recipe, parts, owl.num_image_tokens, tokens, pictures, measured, flops, memory)


def show(made: Plan, device: Device, console: Console, who_learns: RenderableType) -> None:
    """Print a plan: three short tables and, where it does not fit, what to change."""
    recipe = made.recipe
    costs = Table.grid(padding=(0, 2))
    costs.add_column(justify="left")
    costs.add_column(justify="right")
    costs.add_column(style="dim")
    basis = "measured on the data" if made.measured else "upper bound: all of them full"
    costs.add_row("samples a step", f"{recipe.batch:,}", f"{recipe.steps:,} steps, {recipe.batch * recipe.steps:,} samples")
    costs.add_row("tokens a step", f"{made.tokens_per_step:,.0f}", f"{made.tokens_per_sample:,.0f} a sample, {basis}")
    costs.add_row("tokens in all", _short(made.tokens_per_step * recipe.steps), "")
    pictures = f"language positions; {made.pictures_per_sample:.3g} pictures a sample"
    costs.add_row("a picture takes", f"{made.positions_per_picture}", pictures)
    costs.add_row("FLOPs in all", f"{made.flops:.2e}", "a token: 4 x frozen parameters, 6 x learning ones")
    devices = "one device" if device.count == 1 else f"{device.count:,} devices"
    costs.add_row("time", _duration(made.hours(device)), f"on {devices} at {device.mfu:.0%} of {device.tflops:,.0f} TFLOP/s")
    memory = Table.grid(padding=(0, 2))
    memory.add_column()
    memory.add_column(justify="right")
    for name, size in made.memory.items():
        memory.add_row(name, f"{size / 2**30:,.2f} GiB")
    total = sum(made.memory.values()) / 2**30
    memory.add_row("[bold]together[/]", f"[bold]{total:,.2f} GiB[/]")
    title = f"memory on one device, {recipe.micro_batch} samples at once (estimate)"
    console.print(Group(who_learns, "", "[bold]cost[/]", costs, "", f"[bold]{title}[/]", memory))
    if total > device.memory_gib:
        console.print(f"\n[red]{total:,.0f} GiB do not fit into {device.memory_gib:,.0f} GiB.[/] What helps, most first:")
        for advice in _advice(made):
            console.print(f"  {advice}", highlight=False)


def _picture_flops(owl: MplugOwlForConditionalGeneration) -> tuple[int, int]:
    """One picture's forward pass through f_V and through f_K, counted by PyTorch on the meta device, attention included."""
    side = image_size(owl.config.vision_config)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        seen = look(owl.model.vision_tower, torch.empty(1, 3, side, side)).last_hidden_state
        looked = counter.get_total_flops()
        owl.model.abstractor(seen)
    return looked, counter.get_total_flops() - looked


def _flops(
    owl: MplugOwlForConditionalGeneration, parts: Sequence[Part], tokens: float, pictures: float, picture: tuple[int, int]
) -> float:
    """FLOPs of one sample, forward and backward.

    Forward is 2 a parameter and token; gradients of activations cost that again where something in front learns, gradients of
    weights once more where they learn.
    """
    vision, connector, language = parts
    embedding = 0 if owl.config.tie_word_embeddings else owl.get_input_embeddings().weight.numel()
    seen = picture[0] * _passes(vision, False) + picture[1] * _passes(connector, vision.learned > 0)
    in_front = vision.learned + connector.learned > 0
    return pictures * seen + 2 * (language.parameters - embedding) * tokens * _passes(language, in_front)


def _passes(part: Part, something_in_front_learns: bool) -> int:
    """Forward, gradients of activations, gradients of weights: how many of the three a module needs."""
    if part.freedom == "full":
        return 3
    return 2 if part.freedom == "lora" or something_in_front_learns else 1


def _memory(
    owl: MplugOwlForConditionalGeneration, recipe: Recipe, parts: Sequence[Part], tokens: float, pictures: float
) -> dict[str, float]:
    learned = sum(part.learned for part in parts)
    frozen = count(owl) - learned
    element = 2 if recipe.precision == "bf16" else 4
    sizes = {
        "weights that learn": 4.0 * learned,
        "weights that are frozen": (2.0 if recipe.frozen_bf16 else 4.0) * frozen,
        "gradients": 4.0 * learned,
        "AdamW's two averages": 8.0 * learned,
    }
    text, vision = owl.config.text_config, owl.config.vision_config
    samples = recipe.micro_batch
    vision_part, connector_part, language_part = parts
    kept = 0.0
    through = [(language_part, text, tokens)]
    if vision_part.freedom != "frozen":
        side = image_size(vision) / getattr(vision, "patch_size", 14)
        through.append((vision_part, vision, pictures * side * side))
    for part, config, positions in through:
        upstream = part is language_part and (vision_part.learned or connector_part.learned)
        if part.freedom == "frozen" and not upstream:
            continue
        each = KEPT_BYTES if part.freedom == "full" else KEPT_BYTES_FROZEN
        layers = config.num_hidden_layers
        width = positions * config.hidden_size * samples * element / 2
        kept += width * (2 * layers + each if recipe.gradient_checkpointing else layers * each)
    sizes["activations"] = kept
    sizes["logits"] = samples * tokens * text.vocab_size * (element + 4.0 + 4.0)
    return sizes


def _advice(made: Plan) -> list[str]:
    recipe, advice = made.recipe, []
    biggest = max(made.memory, key=lambda name: made.memory[name])
    if biggest in ("activations", "logits") and recipe.micro_batch > 1:
        advice.append(f"--set micro_batch={recipe.micro_batch // 2}   fewer samples at once, same step")
    if not recipe.frozen_bf16 and biggest == "weights that are frozen":
        advice.append("--set frozen_bf16=true   what does not learn in half the memory")
    if not recipe.gradient_checkpointing and made.memory["activations"] > 0:
        advice.append("--set gradient_checkpointing=true   keeps little of each layer, computes it again: about a third slower")
    if recipe.learners.language == "full":
        advice.append("--set learners.language=lora   adapters instead of every weight of the language model")
    if recipe.micro_batch > 1 and biggest not in ("activations", "logits"):
        advice.append(f"--set micro_batch={recipe.micro_batch // 2}   fewer samples at once, same step")
    return advice or ["more devices: accelerate launch with FSDP splits weights, gradients and averages"]


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.1f} {letter}"
    return f"{value:,.0f}"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:,.0f} s"
    return f"{hours * 60:,.0f} min" if hours < 2 else f"{hours:,.1f} h"


__all__ = ["Device", "Plan", "plan", "show"]
