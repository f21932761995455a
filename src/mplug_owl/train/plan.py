"""What a run will cost, before it is paid: parameters, tokens, FLOPs, memory, time. Nothing is trained or downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.data.sources import Source
from mplug_owl.data.survey import Lengths
from mplug_owl.model.build import count
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.towers import encode_images, image_size
from mplug_owl.train.activations import activation_bytes
from mplug_owl.train.batch import Weights, mean_sample, text_alone
from mplug_owl.train.recipe import Recipe, override
from mplug_owl.train.trainable import Part, prepare, table

# Who learns, at a glance.
FACES = {"frozen": "❄ ", "lora": "🔥", "last": "🔥", "full": "🔥"}


# Dense bf16 TFLOP/s by datasheet, the most specific name first. What is not here has no rate rather than a made-up one.
RATES = {"H200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "A100": 312.0}


# Longer ones are broken behind their book, so that a table of stages fits eighty columns.
LONG_NAME = 20


@dataclass(frozen=True)
class Device:
    """What a run is planned for, an H200 unless said: `tflops` is the datasheet's dense bf16 rate, `mfu` the share reached."""

    tflops: float = 989.0
    memory_gib: float = 141 * 1e9 / 2**30
    mfu: float = 0.4
    count: int = 1


@dataclass(frozen=True)
class Work:
    """Floating-point operations forward and backward: of a language position, and of a picture."""

    token: float
    picture: float

    def __call__(self, tokens: float, pictures: float) -> float:
        return self.token * tokens + self.picture * pictures


@dataclass(frozen=True)
class Effort:
    """What a model costs and what a device could do: what share of its rate is reached (MFU)."""

    work: Work
    tflops: float

    def share(self, tokens: int, pictures: int, seconds: float) -> float:
        """MFU of one device that went through these in so many seconds; padding is no work done."""
        return self.work(tokens, pictures) / (self.tflops * 1e12 * seconds)


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
    work: Work
    memory: dict[str, float]

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
        return self.work(self.tokens_per_sample, self.pictures_per_sample)

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole run."""
        return self.flops_per_sample * self.samples_per_step * self.recipe.steps

    @property
    def gib(self) -> float:
        """Memory on one device, all parts together."""
        return sum(self.memory.values()) / 2**30

    def hours(self, device: Device) -> float:
        """Time on `device.count` devices at the stated share of their rate."""
        return self.flops / (device.tflops * 1e12 * device.mfu * device.count) / 3600


def plan(
    recipe: Recipe,
    sources: Sequence[Source] = (),
    processor: MplugOwlProcessor | None = None,
    weights: Weights | None = None,
) -> Plan:
    """Plan a recipe on the meta device. With sources and a processor, tokens and pictures a sample are measured on the data.

    Without, every sample is taken as `max_tokens` long with one picture: an upper bound. Where tokens make the step, or fill a
    packed row, shorter samples are more samples with more pictures: then nothing but pictures is the bound.
    """
    mean = None
    if sources and processor is not None:
        mean = mean_sample(recipe, sources, weights, processor, text_alone(recipe, sources))
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(recipe.modules.config())
    prepare(owl, recipe)
    parts = tuple(table(owl, recipe.trainable))
    most = recipe.encoding.pictures * recipe.encoding.max_tokens / owl.num_image_tokens  # pictures that fit a sample
    known = mean or Lengths(recipe.encoding.max_tokens, float(recipe.encoding.pictures) if recipe.batch else most, 0)
    packed = mean is None and recipe.encoding.pack is not None
    at_once = samples_at_once(recipe, known.tokens) * (most if packed else known.pictures)
    memory = _memory(owl, recipe, parts, known.tokens, at_once)
    effort = work(recipe.modules.config(), parts)
    return Plan(recipe, parts, owl.num_image_tokens, known.tokens, known.pictures, at_once, mean is not None, effort, memory)


def work(config: MplugOwlConfig, parts: Sequence[Part]) -> Work:
    """What a token and a picture cost an owl of these sizes of which these parts learn.

    Forward is 2 FLOPs a parameter and token; gradients of activations cost that again where something in front learns,
    gradients of weights once more where they learn: 6 for what learns, 4 for a frozen language model behind eyes that learn.
    The language model's attention is left out: 2 % at 512 tokens of LLaMA-7B.
    """
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(config).requires_grad_(False)
    looked, said = _picture_flops(owl)
    vision, connector, language = parts
    embedding = 0 if owl.config.tie_word_embeddings else owl.get_input_embeddings().weight.numel()
    picture = looked * _passes(vision, False) + said * _passes(connector, vision.trainable > 0)
    in_front = vision.trainable + connector.trainable > 0
    return Work(2.0 * (language.parameters - embedding) * _passes(language, in_front), picture)


def device_tflops(device: torch.device) -> float | None:
    """The dense bf16 rate of the device at hand, None where no datasheet's is known: of a CPU, of other GPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in RATES.items() if part in name), None)


def samples_at_once(recipe: Recipe, tokens: float) -> float:
    """Samples of so many tokens that a forward pass takes: a micro-batch, or what a packed row has room for."""
    return recipe.micro_batch if recipe.encoding.pack is None else max(1.0, recipe.encoding.pack / tokens)


def show(made: Plan, device: Device, console: Console, who_learns: RenderableType) -> None:
    """Print a plan: three short tables and, where it does not fit, what to change."""
    recipe = made.recipe
    costs = Table.grid(padding=(0, 2))
    costs.add_column(justify="left")
    costs.add_column(justify="right")
    costs.add_column(style="dim")
    basis = "measured on the data" if made.measured else "upper bound: all of them full"
    in_all = f"{recipe.steps:,} steps, {made.samples_per_step * recipe.steps:,.0f} samples"
    pictures = f"language positions; {made.pictures_per_sample:.3g} pictures a sample"
    if recipe.batch is None and not made.measured:
        basis, in_all = "all of them full", f"{recipe.steps:,} steps; more where samples are shorter"
        pictures = f"language positions; {made.pictures_per_sample:.3g} a sample, upper bound"
    costs.add_row("samples a step", f"{made.samples_per_step:,.0f}", in_all)
    costs.add_row("tokens a step", f"{made.tokens_per_step:,.0f}", f"{made.tokens_per_sample:,.0f} a sample, {basis}")
    costs.add_row("tokens in all", _short(made.tokens_per_step * recipe.steps), "")
    costs.add_row("a picture takes", f"{made.positions_per_picture}", pictures)
    passes = 2 * _passes(made.parts[2], any(part.trainable for part in made.parts[:2]))
    each = f"{passes:.3g} x f_L's parameters a token, {made.work.picture:.1e} a picture"
    costs.add_row("FLOPs in all", f"{made.flops:.2e}", each)
    devices = "one device" if device.count == 1 else f"{device.count:,} devices"
    costs.add_row("time", _duration(made.hours(device)), f"on {devices} at {device.mfu:.0%} of {device.tflops:,.0f} TFLOP/s")
    memory = Table.grid(padding=(0, 2))
    memory.add_column()
    memory.add_column(justify="right")
    for name, size in made.memory.items():
        memory.add_row(name, f"{size / 2**30:,.2f} GiB")
    memory.add_row("[bold]together[/]", f"[bold]{made.gib:,.2f} GiB[/]")
    through = f"{samples_at_once(recipe, made.tokens_per_sample):.3g} samples"
    if (room := recipe.encoding.pack) is not None:
        through = f"{room:,} positions, {made.pictures_at_once:.3g} pictures"
    title = f"memory on one device, {through} at once (estimate)"
    console.print(Group(who_learns, "", "[bold]cost[/]", costs, "", f"[bold]{title}[/]", memory))
    if made.gib > device.memory_gib:
        console.print(f"\n[red]{made.gib:,.0f} GiB do not fit into {device.memory_gib:,.0f} GiB.[/] What helps, most first:")
        for advice in _advice(made, device):
            console.print(f"  {advice}", highlight=False)


def compare(plans: Sequence[Plan], device: Device) -> Table:
    """Stages below each other, a line each, and what they cost together."""
    rows = Table(title="together", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    rows.add_column("stage", overflow="fold")
    for name in ("f_V f_K f_L", "learned", "tokens", "FLOPs", "time", "GiB"):
        rows.add_column(name, justify="left" if name == "f_V f_K f_L" else "right", no_wrap=True)
    for made in plans:
        rows.add_row(
            made.recipe.name.replace(".", ".\n", 1) if len(made.recipe.name) > LONG_NAME else made.recipe.name,
            "  ".join(FACES[part.tuning] for part in made.parts),
            _short(sum(part.trainable for part in made.parts)),
            _short(made.tokens_per_step * made.recipe.steps),
            f"{made.flops:.1e}",
            _duration(made.hours(device)),
            f"{made.gib:,.0f}",
        )
    rows.add_section()
    tokens, flops = sum(made.tokens_per_step * made.recipe.steps for made in plans), sum(made.flops for made in plans)
    time, most = sum(made.hours(device) for made in plans), max(made.gib for made in plans)
    rows.add_row("in all", "", "", _short(tokens), f"{flops:.1e}", _duration(time), f"{most:,.0f}", style="bold")
    return rows


def _picture_flops(owl: MplugOwlForConditionalGeneration) -> tuple[int, int]:
    """One picture's forward pass through f_V and through f_K, counted by PyTorch on the meta device, attention included."""
    side = image_size(owl.config.vision_config)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        seen = encode_images(owl.model.vision_tower, torch.empty(1, 3, side, side)).last_hidden_state
        looked = counter.get_total_flops()
        owl.model.abstractor(seen)
    return looked, counter.get_total_flops() - looked


def _passes(part: Part, something_in_front_learns: bool) -> float:
    """Forward, gradients of activations, gradients of weights: how many of the three a module needs."""
    if part.tuning == "full":
        return 3
    if part.tuning == "last":
        return (2 if something_in_front_learns else 1) + 2 * part.trainable / part.parameters
    return 2 if part.tuning == "lora" or something_in_front_learns else 1


def _memory(
    owl: MplugOwlForConditionalGeneration, recipe: Recipe, parts: Sequence[Part], tokens: float, pictures: float
) -> dict[str, float]:
    """Bytes by part at the moment when there is most: a step's last way back begins, with gradients of those before.

    `tokens` are a sample's, `pictures` those that go through at once.
    """
    learned = sum(part.trainable for part in parts)
    frozen = count(owl) - learned
    element = 2 if recipe.precision == "bf16" else 4
    samples = samples_at_once(recipe, tokens)
    read, seen = activation_bytes(owl, recipe, max(1, round(tokens)))
    sizes = {
        "weights that learn": 4.0 * learned,
        "weights that are frozen": (2.0 if recipe.frozen_bf16 else 4.0) * frozen,
        "gradients": 4.0 * learned,
        "AdamW's two averages": 8.0 * learned,
        "activations": samples * read + pictures * seen,
        # The loss is taken in fp32: scores, their softmax and its gradient.
        "logits": samples * tokens * owl.config.text_config.vocab_size * (element + 4.0 + 4.0),
    }
    if recipe.precision == "bf16":
        sizes["bf16 copies of what learns"] = 2.0 * learned
    return sizes


def _advice(made: Plan, device: Device) -> list[str]:
    """Settings that lower the memory, what each leaves of it, and what all of them leave together."""
    recipe = made.recipe
    slower = "third" if recipe.trainable.language == "full" else "half"  # one pass more, of three or of two
    field, sizes = _halves(recipe)
    fits = [size for size in sizes if _left(made, f"{field}={size}") <= device.memory_gib]
    settings = {
        f"{field}={max(fits, default=min(sizes, default=1))}": "fewer samples at once, same step",
        "frozen_bf16=true": "frozen weights in 16 bits",
        "gradient_checkpointing=true": f"each layer twice: a {slower} slower",
        "trainable.language=lora": "adapters on f_L instead of all",
    }
    left = {setting: _left(made, setting) for setting in settings}
    helping = sorted((gib, setting) for setting, gib in left.items() if gib < 0.99 * made.gib)
    lines = [f"--set {setting:<27} {gib:>6,.0f} GiB  {settings[setting]}" for gib, setting in helping]
    together = made.gib
    if helping:
        together = helping[0][0]
    if len(helping) > 1 and together > device.memory_gib:
        together = _left(made, *(setting for _, setting in helping))
        lines.append(f"{'all of these':<33} {together:>6,.0f} GiB")
    if together > device.memory_gib:
        lines.append("more devices: accelerate launch with FSDP splits weights, gradients and averages")
    return lines


def _left(made: Plan, *settings: str) -> float:
    """GiB that settings leave; counting anew what is kept takes seconds, so only where they change it."""
    recipe, tokens = made.recipe, made.tokens_per_sample
    changed = override(recipe, settings)
    if replace(changed, micro_batch=recipe.micro_batch, encoding=recipe.encoding) == recipe:
        grows = made.memory["activations"] + made.memory["logits"]
        return made.gib - grows * (1 - samples_at_once(changed, tokens) / samples_at_once(recipe, tokens)) / 2**30
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(changed.modules.config())
    prepare(owl, changed)
    parts = table(owl, changed.trainable)
    pictures = made.pictures_at_once * samples_at_once(changed, tokens) / samples_at_once(recipe, tokens)
    return sum(_memory(owl, changed, parts, tokens, pictures).values()) / 2**30


def _halves(recipe: Recipe) -> tuple[str, list[int]]:
    """What says how much goes through at once, and half of it, half of that, and so on as far as it may."""
    if (room := recipe.encoding.pack) is not None:
        return "encoding.pack", [room >> power for power in range(1, 64) if room >> power >= recipe.encoding.max_tokens]
    sizes = [recipe.micro_batch >> power for power in range(1, recipe.micro_batch.bit_length())]
    return "micro_batch", [size for size in sizes if recipe.batch is None or recipe.batch % size == 0]


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.1f} {letter}"
    return f"{value:,.0f}"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:,.0f} s"
    return f"{hours * 60:,.0f} min" if hours < 2 else f"{hours:,.1f} h"


__all__ = ["Device", "Effort", "Plan", "Work", "compare", "device_tflops", "plan", "show", "work"]
