"""The model card: what a finished model is, how it came to be, and how to talk with it, in the README.md of its folder."""

import json
import platform
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from mplug_owl.data.sources import Source
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.train import metrics
from mplug_owl.train.recipe import Recipe, as_json
from mplug_owl.train.trainable import TUNINGS, Part

PACKAGES = ("mplug-owl", "torch", "transformers", "peft", "accelerate")


def write(out: Path, recipe: Recipe, parts: Sequence[Part], sources: Sequence[Source]) -> Path:
    """Write the card of the finished run in `out` beside its weights, with a copy of the curve. The licence is its owner's."""
    shutil.copyfile(out / "curve.png", out / "model" / "curve.png")
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=_bases(recipe) or None,
        tags=["mplug-owl"],
    )
    body = "\n\n".join(
        [
            f"# {recipe.name}",
            _what(out, recipe, parts),
            "## Talk with it",
            '```sh\nowl chat MODEL --image photo.jpg "What is this?"\n```',
            "`MODEL` is this folder, or the repository that `hf upload USER/NAME .` makes of it.",
            "## Who learned",
            _table(
                ("module", "learns", "parameters", "trainable"),
                [(f"{p.symbol} {p.name}", TUNINGS[p.tuning], f"{p.parameters:,}", f"{p.trainable:,}") for p in parts],
            ),
            "## Data",
            _table(("source", "records"), [(f"`{_without_folders(source.name)}`", f"{len(source):,}") for source in sources]),
            "## Loss",
            _loss(out),
            "![loss per supervised token, step by step](curve.png)",
            "## Recipe",
            _table(("field", "value"), [(f"`{name}`", f"`{value}`") for name, value in _fields(recipe)]),
            "## Made with",
            _table(("", "version"), _versions()),
        ]
    )
    card = ModelCard(f"---\n{header.to_yaml()}\n---\n\n{body}\n")
    target = out / "model" / "README.md"
    target.write_text(str(card), encoding="utf-8")
    return target


def _what(out: Path, recipe: Recipe, parts: Sequence[Part]) -> str:
    config, total = MplugOwlConfig.from_pretrained(out / "model"), sum(part.parameters for part in parts) / 1e6
    seen = "text and pictures" if recipe.encoding.pictures else "text alone"
    return (
        f"An [mPLUG-Owl](https://arxiv.org/abs/2304.14178) of {total:,.1f} M parameters: a vision encoder "
        f"(`{config.vision_config.model_type}`), a connector (`{config.visual_abstractor_config.connector}`) and a language "
        f"model (`{config.text_config.model_type}`). This stage learned from {seen} for {recipe.steps:,} steps of "
        f"{recipe.batch:,} samples and ended on {datetime.now(UTC):%Y-%m-%d}. What it gets wrong has not been examined."
    )


def _loss(out: Path) -> str:
    rows = [row for row in metrics.read(out / "metrics.jsonl") if "loss" in row]
    if not rows:
        return "No loss was written down."
    first, last = rows[0], rows[-1]
    return f"Per supervised token: {first['loss']:.3f} at step {first['step']:,}, {last['loss']:.3f} at step {last['step']:,}."


def _bases(recipe: Recipe) -> list[str]:
    """Hub ids of what it started from; folders of this machine mean nothing elsewhere."""
    named = [recipe.init_from] if recipe.init_from else [recipe.modules.vision, recipe.modules.language]
    return [
        name for name in named if name and name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists()
    ]


def _fields(recipe: Recipe) -> list[tuple[str, object]]:
    """The recipe in full; the sizes of its config are in config.json, and of paths the name is kept alone."""
    modules = {name: value for name, value in vars(recipe.modules).items() if name != "config"}
    values = {**as_json(recipe), "modules": modules}
    values["data"] = [_without_folders(spec) for spec in recipe.data]
    if recipe.init_from and not _bases(recipe):
        values["init_from"] = Path(recipe.init_from).name
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in metrics.flat(values)]


def _without_folders(spec: str) -> str:
    layout, colon, path = spec.rpartition(":")
    return spec if layout == "hub" or "://" in spec else f"{layout}{colon}{Path(path).name}"


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "from source"))
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
