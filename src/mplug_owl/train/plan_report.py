"""A plan on the screen: who learns, what it costs, what it needs of memory and, where that does not fit, what helps."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table

from mplug_owl.errors import UserError
from mplug_owl.train.flops import passes
from mplug_owl.train.plan import Device, Plan, gib_with, samples_at_once
from mplug_owl.train.recipe import Recipe, override
from mplug_owl.train.trainable import SIGNS

# A longer name is broken after its book, so that a table of stages fits eighty columns.
LONG_NAME = 20


def show(made: Plan, device: Device, console: Console, who_learns: RenderableType) -> None:
    """Print a plan: three short tables and, where it does not fit, what to change."""
    recipe = made.recipe
    forward = f"{samples_at_once(recipe, made.tokens_per_sample):.3g} samples"
    if (room := recipe.encoding.pack) is not None:
        forward = f"{room:,} positions, {made.pictures_at_once:.3g} pictures"
    title = f"[bold]memory on one device, {forward} at once (estimate)[/]"
    console.print(Group(who_learns, "", "[bold]cost[/]", _costs(made, device), "", title, _memory(made)))
    if made.gib > device.memory_gib:
        console.print(f"\n[red]{made.gib:,.0f} GiB do not fit into {device.memory_gib:,.0f} GiB.[/] What helps, most first:")
        for advice in _advice(made, device):
            console.print(f"  {advice}", highlight=False)


def _costs(made: Plan, device: Device) -> Table:
    """Samples, tokens, pictures, FLOPs and time of a stage, each with what it rests on."""
    recipe = made.recipe
    basis = "measured on the data" if made.measured else "upper bound: all of them full"
    in_all = f"{made.steps:,} steps, {made.samples_per_step * made.steps:,.0f} samples"
    pictures = "picture a sample" if made.pictures_per_sample == 1 else "pictures a sample"
    if recipe.batch is None and not made.measured:
        basis, pictures = "all of them full", "a sample, upper bound"
        in_all = f"{made.steps:,} steps; more where samples are shorter"
    devices = "one device" if device.count == 1 else f"{device.count:,} devices"
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("samples a step", f"{made.samples_per_step:,.0f}", in_all)
    table.add_row("tokens a step", f"{made.tokens_per_step:,.0f}", f"{made.tokens_per_sample:,.0f} a sample, {basis}")
    table.add_row("tokens in all", _short(made.tokens_per_step * made.steps), "")
    each = f"language positions; {made.pictures_per_sample:.3g} {pictures}"
    table.add_row("a picture takes", f"{made.positions_per_picture}", each)
    per_token = 2 * passes(made.parts[2], any(part.trainable for part in made.parts[:2]))
    each = f"{per_token:.3g} x f_L's parameters a token, {made.flops_each.picture:.1e} a picture"
    if recipe.objective == "blip2":
        each = f"{made.flops_each.token:.1e} a word, {made.flops_each.picture:.1e} a picture, f_L none"
    table.add_row("FLOPs in all", f"{made.flops:.2e}", each)
    rate = f"on {devices} at {device.mfu:.0%} of {device.tflops:,.0f} TFLOP/s"
    table.add_row("time", _duration(made.hours(device)), rate)
    return table


def _memory(made: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, size in made.memory.items():
        table.add_row(name, f"{size / 2**30:,.2f} GiB")
    table.add_row("[bold]together[/]", f"[bold]{made.gib:,.2f} GiB[/]")
    return table


def compare(plans: Sequence[Plan], device: Device) -> Table:
    """Stages below each other, a line each, and what they cost together."""
    rows = Table(title="together", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    rows.add_column("stage", overflow="fold")
    for name in ("f_V f_K f_L", "trainable", "tokens", "FLOPs", "time", "GiB"):
        rows.add_column(name, justify="left" if name == "f_V f_K f_L" else "right", no_wrap=True)
    for made in plans:
        rows.add_row(
            made.recipe.name.replace(".", ".\n", 1) if len(made.recipe.name) > LONG_NAME else made.recipe.name,
            "  ".join(SIGNS[part.tuning] for part in made.parts),
            _short(sum(part.trainable for part in made.parts)),
            _short(made.tokens_per_step * made.steps),
            f"{made.flops:.1e}",
            _duration(made.hours(device)),
            f"{made.gib:,.0f}",
        )
    rows.add_section()
    tokens, flops = sum(made.tokens_per_step * made.steps for made in plans), sum(made.flops for made in plans)
    time, most = sum(made.hours(device) for made in plans), max(made.gib for made in plans)
    rows.add_row("in all", "", "", _short(tokens), f"{flops:.1e}", _duration(time), f"{most:,.0f}", style="bold")
    return rows


def _advice(made: Plan, device: Device) -> list[str]:
    """Settings that lower the memory, what each leaves of it, and what all of them leave together."""
    recipe = made.recipe
    slower = "third" if recipe.trainable.language == "full" else "half"  # one pass more, of three or of two
    field, sizes = _halves(recipe)
    sizes = [size for size in sizes if _is_allowed(recipe, f"{field}={size}")]
    fits = [size for size in sizes if gib_with(made, f"{field}={size}") <= device.memory_gib]
    settings = {
        f"{field}={max(fits, default=min(sizes, default=1))}": "fewer samples at once, same step",
        "frozen_bf16=true": "frozen weights in 16 bits",
        "gradient_checkpointing=true": f"each layer twice: a {slower} slower",
        "trainable.language=lora": "adapters on f_L instead of all",
    }
    left = {setting: gib_with(made, setting) for setting in settings if _is_allowed(recipe, setting)}
    helping = sorted((gib, setting) for setting, gib in left.items() if gib < 0.99 * made.gib)
    lines = [f"--set {setting:<27} {gib:>6,.0f} GiB  {settings[setting]}" for gib, setting in helping]
    least = made.gib
    if helping:
        least = helping[0][0]
    if len(helping) > 1 and least > device.memory_gib:
        least = gib_with(made, *(setting for _, setting in helping))
        lines.append(f"{'all of these':<33} {least:>6,.0f} GiB")
    if least > device.memory_gib:
        lines.append("more devices: accelerate launch with FSDP splits weights, gradients and averages")
    return lines


def _is_allowed(recipe: Recipe, setting: str) -> bool:
    """Whether a recipe may have this; BLIP-2's first step may not have all."""
    try:
        override(recipe, [setting])
    except UserError:
        return False
    return True


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
