"""Steps that cannot be learned from: a loss that is no number, or a spike. Each is left out and written down."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mplug_owl.errors import UserError
from mplug_owl.train import checkpoint
from mplug_owl.train.disk import JsonLines

# Losses that a step's own is compared with.
RECENT = 50


class LossGuard:
    """Leaves a step out whose loss is no number, or above `spike` times the mean of the last ones.

    After more than `patience` of them in a row the run goes back to a checkpoint from before them, as PaLM's did (arXiv
    2204.02311, section 5.1): it learns the next samples with the older weights. It does so `rollbacks` times at most. What was
    left out or undone is written to `lines`. `samples` names the samples of a step counted from 0. `state` is what a checkpoint
    holds of the guard, so that a resumed run judges alike.
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
        # The step at which the trouble began. After going back it is the checkpoint's, whose weights did not end it.
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
        """The checkpoint to go back to after `step`: the newest whole one from before the trouble.

        Only checkpoints that the run wrote by itself, `every` so many steps, are taken. Others are there because somebody
        stopped it, and a stopped run must end as a whole one does. Raises UserError where there is none, or where the run went
        back too often.
        """
        trouble = f"step {step}: the {self.in_a_row}th in a row that cannot be learned from"
        samples = f"its samples: {', '.join(self.samples(step - 1)[:5])}"
        if self.gone_back >= self.rollbacks:
            raise UserError(f"{trouble}, after going back {self.gone_back} times (rollbacks={self.rollbacks}); {samples}")
        since = self.since or step
        found, _ = checkpoint.newest(checkpoints, lambda saved: every is not None and saved % every == 0 and saved < since)
        if found is None:
            raise UserError(f"{trouble}, and no checkpoint from before step {since} to go back to; {samples}")
        return found

    def went_back(self, step: int, found: checkpoint.Checkpoint) -> None:
        """Judge as after that checkpoint, and write down what is not learned now: all from there to `step`."""
        self.recent = deque(checkpoint.state_of(found)["recent"], maxlen=RECENT)
        self.in_a_row, self.since, self.gone_back = 0, found.step, self.gone_back + 1
        undone = [self.samples(number) for number in range(found.step, step)]
        self._write(step=step, back_to=found.step, samples=[name for names in undone for name in names])

    @property
    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        names = ("in_a_row", "since", "gone_back")
        return {"recent": list(self.recent), **{name: getattr(self, name) for name in names}}

    def _write(self, **row: object) -> None:
        if self.lines is not None:
            self.lines.write(row)
