"""What a run measures: one JSON line every few steps, trackers where asked for, and the loss as a curve."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from mplug_owl.errors import UserError
from mplug_owl.train.disk import JsonLines, Row
from mplug_owl.train.disk import read as read_lines

# Values of a line that had another name before 0.2.
RENAMED = {"learned_tokens": "supervised_tokens"}


class Metrics:
    """`metrics.jsonl` of a run, and trackers that get the same lines. A resumed run keeps the lines up to its `step`."""

    def __init__(
        self,
        path: Path,
        step: int = 0,
        trackers: Sequence[GeneralTracker] = (),
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.lines, self.trackers = JsonLines(path, lambda row: row["step"] <= step, note), trackers

    def write(self, **values: float) -> None:
        """Append one line."""
        self.lines.write(values)
        for tracker in self.trackers:
            tracker.log({name: value for name, value in values.items() if name != "step"}, step=int(values["step"]))

    def close(self) -> None:
        """Write what was held back, and let the trackers do so; a second time there is nothing to do."""
        self.lines.flush()
        trackers, self.trackers = self.trackers, ()
        for tracker in trackers:
            tracker.finish()


def read(path: Path) -> list[Row]:
    """The lines of a metrics.jsonl, under the names of today; none where there is none."""
    return [{RENAMED.get(name, name): value for name, value in row.items()} for row in read_lines(path)]


def check(trackers: Sequence[str]) -> None:
    """Raises UserError that says what to install for a tracker that is missing; accelerate would leave it out in silence."""
    for name in trackers:
        if find_spec(name) is None:
            raise UserError(f"trackers={name}: its package is not installed; pip install {name}")


def follow(accelerator: Accelerator, run: str, recipe: dict[str, object]) -> Sequence[GeneralTracker]:
    """Open the trackers that the accelerator was made with, each given the recipe."""
    named = {"wandb": {"name": run, "dir": accelerator.project_dir}, "trackio": {"name": run}}
    accelerator.init_trackers("mplug-owl", dict(flat(recipe)), init_kwargs=named)
    return accelerator.trackers


def flat(values: Mapping[str, object], path: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """Nested values as `optimizer.lr` and the like, each a plain value or text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, bool | int | float | str) else json.dumps(value)


def draw(runs: Sequence[Path], target: Path) -> Path:
    """The loss curves of runs, one panel each, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 4.6 * len(runs)
    figure = Figure(figsize=(width, 3.4), dpi=120)
    FigureCanvasAgg(figure)
    # Margins in inches; to have them computed takes as long as the drawing.
    figure.subplots_adjust(left=0.7 / width, right=1 - 0.15 / width, bottom=0.5 / 3.4, top=1 - 0.35 / 3.4, wspace=0.25)
    for panel, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        rows = [row for row in read(run / "metrics.jsonl") if "loss" in row]
        panel.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="#c2571a", linewidth=1.6)
        panel.set(title=run.name, xlabel="step", ylabel="loss per supervised token", ylim=(0, None))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(target)
    return target
