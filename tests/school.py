"""A small school for tests: an owl of one layer a module, a few drawn scenes, and runs that take about a second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mplug_owl import MplugOwlConfig
from mplug_owl.data.encode import Encoding
from mplug_owl.data.sources import Source, read
from mplug_owl.data.survey import Survey
from mplug_owl.model.build import Modules
from mplug_owl.model.load import Owl
from mplug_owl.train import run
from mplug_owl.train.exam import Exam
from mplug_owl.train.loop import fit
from mplug_owl.train.recipe import LoRA, Optimizer, Recipe, Schedule, Trainable
from mplug_owl.train.reporter import Progress
from mplug_owl.train.trainable import Part
from tests.world import write

SCENES, SEED = 8, 5


def small(dropout: float = 0.0) -> MplugOwlConfig:
    """A picture of 28 pixels is four patches and three language positions."""
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MplugOwlConfig(
        vision_config={
            "model_type": "mplug_owl_vision_model",
            **narrow,
            "image_size": 28,
            "patch_size": 14,
            "initializer_range": 0.25,
        },
        visual_abstractor_config={**narrow, "attention_probs_dropout_prob": dropout, "initializer_range": 0.25},
        text_config={
            "model_type": "llama",
            **narrow,
            "hidden_size": 32,
            "initializer_range": 0.18,
            "max_position_embeddings": 256,
        },
        num_query_tokens=2,
        initializer_range=0.25,
    )


def small_with_dropout() -> MplugOwlConfig:
    """The same, its abstractor forgetting a little while it learns."""
    return small(dropout=0.2)


def lesson(vision: str = "full", abstractor: str = "full", language: str = "full", **fields: Any) -> Recipe:
    """A recipe of a few steps; `fields` are the Recipe's own."""
    usual = Recipe(
        name="lesson",
        modules=Modules(small, vocabulary=300),
        trainable=Trainable(vision, abstractor, language),
        encoding=Encoding(max_tokens=256),
        optimizer=Optimizer(lr=1e-2, weight_decay=0.01, betas=(0.9, 0.98)),
        schedule=Schedule(warmup_steps=2),
        steps=6,
        batch=4,
        micro_batch=2,
        lora=LoRA(rank=2, alpha=4, dropout=0.0),
        precision="fp32",
        workers=0,
        log_every=1,
    )
    return replace(usual, **fields)


def lessons(folder: Path, *formats: str) -> list[Source]:
    """Scenes drawn into a folder, as sources: chats where no format is named."""
    if not (folder / "chats.jsonl").exists():
        write(folder, SCENES, SEED)
    files = {"chat": "chats", "captions": "captions", "text": "text"}
    return [read(f"{'chat' if name == 'text' else name}:{folder}/{files[name]}.jsonl") for name in formats or ("chat",)]


def initial_model(recipe: Recipe, sources: Sequence[Source]) -> Owl:
    """The owl that a run on these sources starts with."""
    return run.initial_model(recipe, Survey(sources))


@dataclass
class Heard:
    """A reporter that hands what it hears to functions."""

    report: Callable[[Progress], None] = lambda progress: None
    note: Callable[[str], None] = lambda sentence: None

    def start(self, name: str, parts: Sequence[Part]) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.report(progress)

    def close(self) -> None: ...


def quietly(
    recipe: Recipe,
    owl: Owl,
    sources: Sequence[Source],
    out: Path,
    weights: Sequence[float | None] | None = None,
    resume: bool = False,
    exam: Exam | None = None,
    **heard: Callable[..., None],
) -> Path:
    """Train without a word on the screen; `report` and `note` hear what is said."""
    return fit(recipe, owl, Survey(sources, weights), out, resume=resume, reporter=Heard(**heard), exam=exam)


class PowerCutError(Exception):
    """What a kill looks like from inside."""


def killed_at(step: int) -> Callable[[Progress], None]:
    """What cuts a run's power when it reports a step."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            raise PowerCutError

    return report


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every weight."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@cache
def taught() -> Owl:
    """An owl that knows the chats about its eight scenes by heart."""
    with TemporaryDirectory() as folder:
        sources = lessons(Path(folder) / "data")
        recipe = lesson(steps=150, batch=8, micro_batch=8, log_every=150)
        owl = initial_model(recipe, sources)
        quietly(recipe, owl, sources, Path(folder) / "run")
    return owl
