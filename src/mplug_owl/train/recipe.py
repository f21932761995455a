"""A recipe says everything about one training run: one frozen value, made by a function, changed by `replace` or `--set`."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mplug_owl.data.encode import Encoding
from mplug_owl.model.build import Modules

Tuning = Literal["frozen", "lora", "last", "full"]
# Fields that had another name before 0.2.
RENAMED = {
    "learners": "trainable",
    "start": "init_from",
    "grace": "grace_seconds",
    "silence_seconds": "process_timeout",
}
Tracker = Literal["tensorboard", "trackio", "wandb"]


@dataclass(frozen=True)
class Trainable:
    """Who learns: each of the three modules is frozen, learns through LoRA, in its last layer alone, or in full.

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
    """A module's own peak learning rate, None for the common one. Warm-up and cosine are the same for all."""

    vision: float | None = None
    abstractor: float | None = None
    language: float | None = None


@dataclass(frozen=True)
class AdamW:
    """AdamW with linear warm-up to `lr`, then a cosine down to `min_lr` at the last step; gradients clipped to norm `clip`.

    `rates` are for modules that learn faster or slower than `lr`; theirs end at the same share of their peak. With `muon` the
    matrices inside the layers learn by Muon (arXiv 2502.16982), its updates scaled so that rate and decay mean the same.
    """

    lr: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float = 1e-6
    min_lr: float = 0.0
    clip: float | None = 1.0
    rates: Rates = Rates()
    muon: bool = False


@dataclass(frozen=True)
class Recipe:
    """One stage of training.

    `batch` samples make a step, over all processes together; where it is None, as many as come to `batch_tokens` language
    positions on average, pictures' included, measured before the first step. `micro_batch` of them go through the model at
    once, or what fits a row of `encoding.pack`; the rest is accumulated. `text_share` of every step, to the sample, comes from
    the sources of text alone and the rest from those with pictures; None mixes them all by weight. `data` are
    "FORMAT:PATH[@WEIGHT]"; weights default to sizes. `init_from` is the run or model to go on from, None for `modules`.
    `frozen_bf16` stores what does not learn in half the memory. `attention` is how transformers computes it, None for its own
    choice; on a CPU eager is a quarter faster where rows are short. `compile` puts the language model through torch.compile
    first, which pays in runs of many minutes. `trackers` get each line of metrics, as metrics.jsonl does; `tflops` is one
    device's dense bf16 rate, for the MFU in it, None for what is known of the device.
    A run stops when more than `max_bad_share` of its samples cannot be read. A step without a number, or with a loss above
    `spike` times the usual, is left out; after `patience` of them in a row the run goes back to a checkpoint, `rollbacks` times
    at most. `grace` is how many seconds a scheduler gives between asking the run to stop and killing it; the run tells when it
    needs more. Of several processes one that is silent for `process_timeout` is taken for dead.
    """

    name: str
    modules: Modules
    trainable: Trainable
    encoding: Encoding
    optimizer: AdamW
    steps: int
    batch: int | None
    micro_batch: int
    batch_tokens: int | None = None
    text_share: float | None = None
    data: tuple[str, ...] = ()
    init_from: str | None = None
    lora: LoRA = field(default_factory=LoRA)
    precision: Literal["fp32", "bf16"] = "bf16"
    frozen_bf16: bool = False
    attention: Literal["sdpa", "eager"] | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
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
    grace_seconds: float | None = (
        30.0  # SLURM's KillWait and Kubernetes' terminationGracePeriodSeconds, unless they are told otherwise
    )
    process_timeout: int = 600

    def __post_init__(self) -> None:
        for name in ("steps", "micro_batch", "log_every", "keep_checkpoints", "process_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("batch", "batch_tokens", "save_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more, or none")
        if self.batch is None and self.batch_tokens is None:
            raise ValueError("batch and batch_tokens are none; one of them must say how large a step is")
        if (
            self.batch is not None
            and self.batch_tokens is None
            and self.encoding.pack is None
            and self.batch % self.micro_batch
        ):
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        rates = {"lr": self.optimizer.lr, **{f"rates.{name}": rate for name, rate in vars(self.optimizer.rates).items()}}
        for name, rate in rates.items():
            if rate is not None and rate <= 0:
                raise ValueError(
                    f"optimizer.{name} is {rate}; it must be above 0, and what shall not learn is frozen by trainable"
                )
        if self.encoding.max_tokens < 2:
            raise ValueError(f"encoding.max_tokens is {self.encoding.max_tokens}; it must be 2 or more")
        if (pack := self.encoding.pack) is not None and pack < self.encoding.max_tokens:
            raise ValueError(f"encoding.pack is {pack}; it must be encoding.max_tokens, {self.encoding.max_tokens}, or more")
        if self.encoding.crop is not None and not 0 < self.encoding.crop <= 1:
            raise ValueError(f"encoding.crop is {self.encoding.crop}; it must be above 0 and at most 1, or none")
        if self.text_share is not None and not 0 < self.text_share < 1:
            raise ValueError(f"text_share is {self.text_share}; it must be between 0 and 1, or none")


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """The recipe with `field.path=value` settings put in, each checked against the field's type.

    Raises ValueError that lists the valid fields, or says what type was expected.
    """
    settings, changes = list(settings), dict[str, Any]()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: expected FIELD=VALUE, for example optimizer.lr=1e-4")
        try:
            _put(changes, type(recipe), path.strip().split("."), text.strip())
        except ValidationError as error:
            raise ValueError(f"--set {setting}: {error.errors()[0]['msg']}; got {text.strip()!r}") from None
        except ValueError as error:
            raise ValueError(f"--set {setting}: {error}") from None
    try:  # all at once: batch and micro_batch must fit each other when both have changed, not before
        return _replaced(recipe, changes)
    except ValueError as error:
        raise ValueError(f"--set {' --set '.join(settings)}: {error}") from None


def as_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, its config written out in full: what recipe.json holds and a resumed run must match."""
    values = dataclasses.asdict(recipe)
    values["modules"]["config"] = recipe.modules.config().to_dict()
    return json.loads(json.dumps(values, default=str))


def as_saved(recipe: Recipe, saved: dict[str, Any]) -> Recipe:
    """The recipe with the values that a run's recipe.json holds. Sizes stay its own: they come from a function."""
    return _as_saved(recipe, renamed(saved))


def renamed(saved: dict[str, Any]) -> dict[str, Any]:
    """The values of a recipe.json, those from before 0.2 under their names of today."""
    return {RENAMED.get(name, name): value for name, value in saved.items()}


def differences(before: object, now: object, path: str = "") -> list[str]:
    """What differs between two recipes `as_json`, field by field."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [(f"{path}.{key}".lstrip("."), key) for key in sorted(before.keys() | now.keys())]
        return [line for name, key in inner for line in differences(before.get(key), now.get(key), name)]
    return [] if before == now else [f"{path}: {before} then, {now} now"]


def _as_saved(value: Any, saved: dict[str, Any]) -> Any:
    changes = {}
    for name, hint in get_type_hints(type(value)).items():
        mine = getattr(value, name)
        if name in saved and not callable(mine):
            changes[name] = (
                _as_saved(mine, saved[name]) if is_dataclass(mine) else TypeAdapter(hint).validate_python(saved[name])
            )
    return dataclasses.replace(value, **changes)


def _put(changes: dict[str, Any], kind: type, path: list[str], text: str) -> None:
    """Put a setting's value, read as its field's type, where it belongs among the changes."""
    name, rest = path[0], path[1:]
    hints = get_type_hints(kind)
    if kind is Recipe and name in RENAMED:
        raise ValueError(f"{name} is now called {RENAMED[name]}; write {'.'.join([RENAMED[name], *rest])}")
    if name not in hints:
        raise ValueError(f"{kind.__name__} has no field {name!r}; it has {', '.join(hints)}")
    if rest and not is_dataclass(hints[name]):
        raise ValueError(f"{name} is a plain value and has no field {rest[0]!r}")
    if rest:
        _put(changes.setdefault(name, {}), hints[name], rest, text)
    elif is_dataclass(hints[name]):
        raise ValueError(
            f"{name} has parts; set one of {', '.join(f'{name}.{inner}' for inner in get_type_hints(hints[name]))}"
        )
    else:
        changes[name] = _parsed(hints[name], text)


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
