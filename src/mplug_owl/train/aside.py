"""What a run puts aside: samples that cannot be read, steps whose loss is no number. Each is written down, with its reason."""

import json
import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from mplug_owl.data.loader import Aside
from mplug_owl.train import metrics

# A few odd samples among the first are no reason to stop; a share means something from here on.
ENOUGH_TO_JUDGE = 200
# Losses that a step's own is compared with.
RECENT = 50


class Quarantine:
    """`quarantine.jsonl` of a run: every sample that could not be read, once. Raises ValueError above `share` of those seen.

    `path` is None in processes that write nothing; they judge alike.
    """

    def __init__(self, path: Path | None, share: float) -> None:
        self.path, self.share = path, share
        self.known = {(row["source"], row["index"]) for row in metrics.read(path)} if path is not None else set()
        self.seen = 0
        self.bad = 0

    def add(self, aside: Iterable[Aside], seen: int) -> None:
        """Write down what a step could not read, of the `seen` samples that it was given."""
        found = list(aside)
        self.seen += seen
        self.bad += len(found)
        for one in found:
            if self.path is not None and (one.source, one.index) not in self.known:
                self.known.add((one.source, one.index))
                _append(self.path, {"source": one.source, "index": one.index, "reason": one.reason})
        if self.seen >= ENOUGH_TO_JUDGE and self.bad > self.share * self.seen:
            raise ValueError(
                f"{self.bad} of {self.seen} samples cannot be read, more than the {self.share:.0%} allowed by max_bad_share; "
                "they are listed in quarantine.jsonl"
            )


class Watch:
    """Judges the loss of each step: no number, or above `spike` times the mean of the last ones, and the step is left out.

    At most `patience` steps in a row are; then the run stops with ValueError. `path` is None in processes that write nothing.
    """

    def __init__(self, path: Path | None, spike: float | None, patience: int) -> None:
        self.path, self.spike, self.patience = path, spike, patience
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.in_a_row = 0

    def accepts(self, step: int, loss: float, norm: float, names: Iterable[str]) -> bool:
        """Whether the optimiser may take this step; if not, the step and its samples are in `skipped.jsonl`."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        usual = sum(self.recent) / len(self.recent) if self.recent else math.inf
        calm = self.spike is None or len(self.recent) < RECENT // 5 or loss <= self.spike * usual
        if finite and calm:
            self.recent.append(loss)
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        names = list(names)
        row = {"step": step, "loss": repr(loss), "grad_norm": repr(norm), "samples": names}
        if self.path is not None:
            _append(self.path, row)
        if self.in_a_row > self.patience:
            raise ValueError(
                f"step {step}: the loss is {loss:.4g} and its gradient {norm:.3g}, the {self.in_a_row}th step in a row that "
                f"cannot be learned from; its samples: {', '.join(names[:5])}"
            )
        return False

    @property
    def state(self) -> dict[str, object]:
        """What a resumed run must know to judge alike."""
        return {"recent": list(self.recent), "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, object]) -> None:
        """Go on where a checkpoint was written."""
        self.recent.extend(state.get("recent", []))
        self.in_a_row = int(state.get("in_a_row", 0))  # type: ignore[call-overload]


def _append(path: Path, row: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
