"""What a run tells about itself: one JSON line every few steps, and the loss as a curve."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Metrics:
    """`metrics.jsonl` of a run. A resumed run goes on behind the step that it resumes from."""

    def __init__(self, path: Path, step: int = 0) -> None:
        kept = [row for row in read(path) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.path = path

    def write(self, **values: Any) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; none where there is none. A last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def draw(runs: Sequence[Path], target: Path) -> Path:
    """The loss curves of runs, one panel each, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(runs), 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for panel, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        rows = [row for row in read(run / "metrics.jsonl") if "loss" in row]
        panel.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="#c2571a", linewidth=1.6)
        panel.set(title=run.name, xlabel="step", ylabel="loss per learned token", ylim=(0, None))
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(target)
    return target
