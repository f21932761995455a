"""What a run puts aside: samples that cannot be read, steps whose loss is no number. Each is written down, with its reason."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mplug_owl.data.loader import BadRecord
from mplug_owl.train import checkpoint
from mplug_owl.train.disk import JsonLines, read

# A few odd samples among the first are no reason to stop; a share means something from here on.
ENOUGH_TO_JUDGE = 200
# Losses that a step's own is compared with.
RECENT = 50


class Quarantine:
    """`quarantine.jsonl` of a run: every sample that could not be read, once. Raises ValueError above `share` of those seen.

    `path` is None in processes that write nothing; they judge alike.
    """

    def __init__(self, path: Path | None, share: float, note: Callable[[str], None] = lambda sentence: None) -> None:
        self.lines, self.share = JsonLines(path, note=note) if path is not None else None, share
        self.known = {(row["source"], row["index"]) for row in read(path)} if path is not None else set()
        self.seen = 0
        self.bad = 0

    def add(self, bad: Iterable[BadRecord], seen: int) -> None:
        """Write down what a step could not read, of the `seen` samples that it was given."""
        found = list(bad)
        self.seen += seen
        self.bad += len(found)
        for one in found:
            if self.lines is not None and (one.source, one.index) not in self.known:
                self.known.add((one.source, one.index))
                self.lines.write({"source": one.source, "index": one.index, "reason": one.reason})
        if self.seen >= ENOUGH_TO_JUDGE and self.bad > self.share * self.seen:
            raise ValueError(
                f"{self.bad} of {self.seen} samples cannot be read, more than the {self.share:.0%} allowed by max_bad_share; "
                "they are listed in quarantine.jsonl"
            )


class LossGuard:
    """Judges the loss of each step: no number, or above `spike` times the mean of the last ones, and the step is left out.

    More than `patience` in a row, and the run goes back to a checkpoint from before them, `rollbacks` times in all, as PaLM's
    did (arXiv 2204.02311, section 5.1): with the old weights on to the next samples. What was left out or undone is in `lines`.
    `samples` names the samples of a step counted from 0; `state` is that of a checkpoint, and makes a resumed run judge alike.
    """

    def __init__(
        self,
        spike: float | None,
        patience: int,
        rollbacks: int,
        samples: Callable[[int], list[str]],
        lines: JsonLines | None = None,
        state: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.spike, self.patience, self.rollbacks, self.samples, self.lines = spike, patience, rollbacks, samples, lines
        self.recent = deque[float](state.get("recent", []), maxlen=RECENT)
        self.in_a_row: int = state.get("in_a_row", 0)
        # The step at which the trouble began; after going back, the one gone back to, for its weights did not end it.
        self.since: int | None = state.get("since")
        self.gone_back: int = state.get("gone_back", 0)

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the optimiser may take this step; if not, the step and its samples are written down."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        usual = sum(self.recent) / len(self.recent) if self.recent else math.inf
        calm = self.spike is None or len(self.recent) < RECENT // 5 or loss <= self.spike * usual
        if finite and calm:
            self.recent.append(loss)
            self.in_a_row, self.since = 0, None
            return True
        self.in_a_row += 1
        self.since = self.since or step
        self._write(step=step, loss=repr(loss), grad_norm=repr(norm), samples=self.samples(step - 1))
        return False

    @property
    def alarmed(self) -> bool:
        """Whether steps have been left out for longer than patience lasts."""
        return self.in_a_row > self.patience

    def way_back(self, step: int, checkpoints: Path, every: int | None) -> checkpoint.Checkpoint:
        """The checkpoint to go back to behind `step`: the newest whole one from before the trouble.

        Only one that the run wrote by itself, `every` so many steps: others are there because somebody stopped it, and a run
        that was stopped shall end as if it had not been. Raises ValueError where there is none, or too many were gone back to.
        """
        trouble = f"step {step}: the {self.in_a_row}th in a row that cannot be learned from"
        samples = f"its samples: {', '.join(self.samples(step - 1)[:5])}"
        if self.gone_back >= self.rollbacks:
            raise ValueError(f"{trouble}, after going back {self.gone_back} times (rollbacks={self.rollbacks}); {samples}")
        since = self.since or step
        found, _ = checkpoint.newest(checkpoints, lambda saved: every is not None and saved % every == 0 and saved < since)
        if found is None:
            raise ValueError(f"{trouble}, and no checkpoint from before step {since} to go back to; {samples}")
        return found

    def went_back(self, step: int, found: checkpoint.Checkpoint) -> None:
        """Judge as behind that checkpoint, and write down what is not learned now: all from there to `step`."""
        self.recent = deque(checkpoint.state_of(found)["recent"], maxlen=RECENT)
        self.in_a_row, self.since, self.gone_back = 0, found.step, self.gone_back + 1
        undone = [self.samples(number) for number in range(found.step, step)]
        self._write(step=step, back_to=found.step, samples=[sample for samples in undone for sample in samples])

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        names = ("in_a_row", "since", "gone_back")
        return {"recent": list(self.recent), **{name: getattr(self, name) for name in names}}

    def _write(self, **row: Any) -> None:
        if self.lines is not None:
            self.lines.write(row)
