"""A recipe says everything about one training run: one frozen value, made by a function, changed by `replace` or `--set`."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mplug_owl.data.encode import Encoding
from mplug_owl.data.order import IN_MEMORY
from mplug_owl.errors import UserError
from mplug_owl.model.build import Modules
from mplug_owl.model.quantised import Quantisation
from mplug_owl.train.objective import Objective, check_objective
from mplug_owl.train.ranges import check_ranges, check_types

Tuning = Literal["frozen", "lora", "last", "full"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
# Fields that had another name before 0.2.
RENAMED = {
    "learners": "trainable",
    "start": "init_from",
    "grace": "grace_seconds",
    "silence_seconds": "process_timeout",
    "optimizer.warmup_steps": "schedule.warmup_steps",
    "optimizer.min_lr": "schedule.min_lr",
    "optimizer.clip": "clip",
}

# What runs did before a field came, where its default is something else: every conversation was in the original's prompt, and
# of sources of up to 2**20 records a permutation was held in memory.
BEFORE: dict[tuple[str, str], Any] = {("Modules", "prompt"): "owl", ("Recipe", "order_in_memory"): 2**20}


@dataclass(frozen=True)
class Trainable:
    """Who learns: each of the three modules is frozen, or learns through LoRA, in its last layer alone, or in full.

    The last layer of a connector is its projection into the language model's width.
    """

    vision: Tuning
    abstractor: Tuning
    language: Tuning


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the attention's queries and values (arXiv 2106.09685). Defaults: the original's code.

    `on="linear"` puts them on every linear layer but the head (arXiv 2305.14314).
    """

    rank: int = 8
    alpha: int = 32
    dropout: float = 0.05
    on: Literal["attention", "linear"] = "attention"


@dataclass(frozen=True)
class Rates:
    """A module's own peak learning rate, None for the common one. The schedule is the same for all."""

    vision: float | None = None
    abstractor: float | None = None
    language: float | None = None


@dataclass(frozen=True)
class Optimizer:
    """AdamW at the peak learning rate `lr`; weight decay is for matrices alone.

    `rates` are for modules that learn faster or slower than `lr`. With `muon` the matrices inside the layers learn by Muon
    (arXiv 2502.16982), its updates scaled so that rate and decay mean the same.
    """

    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float = 1e-6
    rates: Rates = Rates()
    muon: bool = False


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to the peak learning rate, then a cosine down to `min_lr` at the last step.

    A module with a rate of its own ends at the same share of its peak.
    """

    warmup_steps: int
    min_lr: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """One stage of training.

    How long: `steps`, or `epochs`, whose steps are computed from the sizes of the sources before the first one.
    How large a step is: `batch` samples over all processes together. Where that is None, as many samples as come to
    `batch_tokens` language positions on average, measured before the first step; a picture's positions count.
    `micro_batch` samples go through the model at once, or what fits a row of `encoding.pack`; the rest is accumulated.

    `data` are "FORMAT:PATH[@WEIGHT]"; weights default to sizes. `text_share` of every step, to the sample, comes from the
    sources of text alone; None mixes all sources by weight. `order="blocks"` reads shards, and parquet's row groups, from front
    to back, many at once; sources without blocks stay in random order. The random order of a source of up to `order_in_memory`
    records is drawn as a whole and held; of a larger one each index is computed. `image_root` is the folder that relative
    picture paths start at. `init_from` is the run or model that the stage starts from, None for `modules`.

    `clip` is the largest norm of a step's gradient. `frozen_bf16` stores what does not learn in half the memory. `attention`
    is how transformers computes it, None for what is quickest: PyTorch's fused kernels, and on a CPU in bf16, where their
    backward pass is slow, the products written out, which steps take there for "eager" too. `compile` puts the language model
    through torch.compile first, which pays in runs of many minutes. `threads` is how many compute a step on a CPU, None for
    what is fastest. `trackers` get each line of metrics.jsonl. `tflops` is one device's dense bf16 rate, which the MFU in it
    needs; None takes what is known of the device.

    A run stops when more than `max_bad_share` of its samples cannot be read. A step is left out whose loss is no number, or
    above `spike` times the usual. After `patience` such steps in a row the run goes back to a checkpoint, `rollbacks` times at
    most. `grace_seconds` is what a scheduler gives between asking a run to stop and killing it; a run that needs more says
    so. Of several processes, one that is silent for `process_timeout` seconds is taken for dead.

    `base` quantises the linear layers of a language model that is frozen or learns through LoRA (QLoRA, arXiv 2305.14314). The
    finished model holds unquantised weights: what was learned is merged into those that the run began with.

    With `text_distillation` conversations without pictures are learned by the divergence from the language model without LoRA,
    not by their words (`train/distillation.py`), so that its language stays.

    `objective="generation"` learns the next word. "blip2" is BLIP-2's first step: a Q-Former learns by contrast, matching and
    generation from samples of one picture and its text, and the language model lends its tokenizer alone (`model/blip2.py`).

    With `index` local shards that nobody has read yet are indexed beside the run, at the lowest priority.
    """

    name: str
    modules: Modules
    trainable: Trainable
    encoding: Encoding
    optimizer: Optimizer
    schedule: Schedule
    steps: int | None
    batch: int | None
    micro_batch: int
    epochs: float | None = None
    batch_tokens: int | None = None
    text_share: float | None = None
    data: tuple[str, ...] = ()
    order: Literal["random", "blocks"] = "random"
    order_in_memory: int = IN_MEMORY
    image_root: str | None = None
    init_from: str | None = None
    lora: LoRA = field(default_factory=LoRA)
    clip: float | None = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    frozen_bf16: bool = False
    attention: Literal["sdpa", "eager"] | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    threads: int | None = None
    workers: int = 2
    seed: int = 0
    log_every: int = 10
    save_every: int | None = None
    keep_checkpoints: int = 2
    trackers: tuple[Tracker, ...] = ()
    tflops: float | None = None
    max_bad_share: float = 0.05
    spike: float | None = None
    patience: int = 5
    rollbacks: int = 2
    grace_seconds: float | None = 30.0  # SLURM's KillWait and Kubernetes' terminationGracePeriodSeconds by default
    process_timeout: int = 600
    index: bool = True
    base: Quantisation | None = None
    text_distillation: bool = False
    objective: Objective = "generation"

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("micro_batch", "log_every", "keep_checkpoints", "process_timeout"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("steps", "batch", "batch_tokens", "save_every", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be 1 or more, or none")
        if self.epochs is not None and self.epochs <= 0:
            raise UserError(f"epochs is {self.epochs}; it must be above 0, or none")
        if (self.steps is None) == (self.epochs is None):
            given = "both given" if self.steps is not None else "both none"
            raise UserError(f"steps and epochs are {given}; exactly one of them must say how long the run is")
        if self.batch is None and self.batch_tokens is None:
            raise UserError("batch and batch_tokens are none; one of them must say how large a step is")
        counted = self.batch_tokens is None and self.encoding.pack is None
        if self.batch is not None and counted and self.batch % self.micro_batch:
            raise UserError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        if self.base is not None and self.trainable.language not in ("frozen", "lora"):
            raise UserError(f"base={self.base}: quantised weights cannot learn; set trainable.language=lora or frozen")
        check_ranges(self)
        self._check_frozen()
        check_objective(self)
        if self.text_distillation and (self.trainable.language != "lora" or self.encoding.pack is not None):
            raise UserError(
                "text_distillation compares with LoRA switched off; set trainable.language=lora, encoding.pack=none"
            )
        if self.text_share is not None and not 0 < self.text_share < 1:
            raise UserError(f"text_share is {self.text_share}; it must be between 0 and 1, or none")

    def _check_frozen(self) -> None:
        """In fp32 nothing is cast on the way: what is stored in bf16 must not pass on to what learns in fp32."""
        who = self.trainable
        eyes = (who.vision == "full") != (who.abstractor == "full") or "last" in (who.vision, who.abstractor)
        meets = who.language == "last" or (eyes and self.encoding.pictures)
        if self.precision == "fp32" and self.frozen_bf16 and meets:
            raise UserError(
                "precision=fp32 and frozen_bf16: here frozen weights pass on to ones that learn; set frozen_bf16=false"
            )


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `field.path=value` settings put in, each checked against the field's type.

    Of steps and epochs the one that is set replaces the other.
    Raises UserError that lists the valid fields, or says what type was expected.
    """
    settings, changes = list(settings), dict[str, Any]()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected FIELD=VALUE, for example optimizer.lr=1e-4")
        try:
            _put(changes, type(recipe), path.strip().split("."), text.strip())
        except ValidationError as error:
            raise UserError(f"--set {setting}: {error.errors()[0]['msg']}; got {text.strip()!r}") from None
        except UserError as error:
            raise UserError(f"--set {setting}: {error}") from None
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if changes.get(one) is not None:
            changes.setdefault(other, None)
    try:  # all at once: batch and micro_batch must fit each other when both have changed, not before
        return _replaced(recipe, changes)
    except UserError as error:
        raise UserError(f"--set {' --set '.join(settings)}: {error}") from None


def as_json(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain values, its config written out in full: what recipe.json holds and a resumed run must match."""
    values = dataclasses.asdict(recipe)
    values["modules"]["config"] = recipe.modules.config().to_dict()
    return json.loads(json.dumps(values, default=str))


def from_json(recipe: Recipe, saved: Mapping[str, object]) -> Recipe:
    """The recipe with the values that a run's recipe.json holds. Sizes stay its own: they come from a function."""
    return _with_values(recipe, renamed(saved))


def renamed(saved: Mapping[str, object]) -> dict[str, object]:
    """The values of a recipe.json, those from before 0.2 under their names of today."""
    values: dict[str, Any] = json.loads(json.dumps(saved))
    for old, new in RENAMED.items():
        *outer, name = old.split(".")
        held = values.get(outer[0], {}) if outer else values
        if name not in held:
            continue
        *room, last = new.split(".")
        (values.setdefault(room[0], {}) if room else values)[last] = held.pop(name)
    return values


def completed(saved: Mapping[str, Any], kind: type = Recipe) -> dict[str, Any]:
    """The values of a recipe.json, with the default of every field that came after it: what runs did before there was one."""
    values, hints = dict(saved), get_type_hints(kind)
    for one in dataclasses.fields(kind):
        if is_dataclass(hints[one.name]) and isinstance(values.get(one.name), dict):
            values[one.name] = completed(values[one.name], hints[one.name])
        elif one.name not in values and (kind.__name__, one.name) in BEFORE:
            values[one.name] = BEFORE[kind.__name__, one.name]
        elif one.name not in values and one.default is not dataclasses.MISSING:
            plain = dataclasses.asdict(one.default) if isinstance(one.default, Rates) else one.default
            values[one.name] = json.loads(json.dumps(plain))
    return values


def differences(before: object, now: object, path: str = "") -> list[str]:
    """What differs between two recipes `as_json`, field by field."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [(f"{path}.{key}".lstrip("."), key) for key in sorted(before.keys() | now.keys())]
        return [line for name, key in inner for line in differences(before.get(key), now.get(key), name)]
    return [] if before == now else [f"{path}: {before} then, {now} now"]


def _with_values(value: Any, saved: Mapping[str, Any]) -> Any:
    changes = {}
    for name, hint in get_type_hints(type(value)).items():
        mine = getattr(value, name)
        if name in saved and not callable(mine):
            changes[name] = (
                _with_values(mine, saved[name]) if is_dataclass(mine) else TypeAdapter(hint).validate_python(saved[name])
            )
    return dataclasses.replace(value, **changes)


def _put(changes: dict[str, Any], kind: type, path: list[str], text: str) -> None:
    """Put a setting's value, read as its field's type, where it belongs among the changes."""
    _refuse_old_name(kind, path)
    name, rest = path[0], path[1:]
    hints = get_type_hints(kind)
    if name not in hints:
        if inner := [f"{part}.{name}" for part, hint in hints.items() if is_dataclass(hint) and name in get_type_hints(hint)]:
            raise UserError(f"{kind.__name__} has no field {name!r} of its own; write {' or '.join(inner)}")
        raise UserError(f"{kind.__name__} has no field {name!r}; it has {', '.join(hints)}")
    if rest and not is_dataclass(hints[name]):
        raise UserError(f"{name} is a plain value and has no field {rest[0]!r}")
    if rest:
        _put(changes.setdefault(name, {}), hints[name], rest, text)
    elif is_dataclass(hints[name]):
        raise UserError(f"{name} has parts; set one of {', '.join(f'{name}.{inner}' for inner in get_type_hints(hints[name]))}")
    else:
        changes[name] = _parsed(hints[name], text)


def _refuse_old_name(kind: type, path: list[str]) -> None:
    for old, new in RENAMED.items():
        length = old.count(".") + 1
        if kind is Recipe and old == ".".join(path[:length]):
            raise UserError(f"{old} is now called {new}; write {'.'.join([new, *path[length:]])}")


def _replaced(value: Any, changes: dict[str, Any]) -> Any:
    inner = {
        name: _replaced(getattr(value, name), change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return dataclasses.replace(value, **inner)


def _parsed(hint: Any, text: str) -> Any:
    """A value of this type from its text: `1e-4`, `none`, `full`, `0.9,0.98`."""
    if text.lower() == "none" and type(None) in getattr(hint, "__args__", ()):
        return None
    if getattr(hint, "__origin__", None) is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        return TypeAdapter(hint).validate_python(parts)
    return TypeAdapter(hint).validate_strings(text)
