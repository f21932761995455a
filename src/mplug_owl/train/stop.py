"""Being asked to stop: SIGTERM and SIGUSR1 let the step end and the checkpoint be written; a second one leaves at once."""

import os
import signal
from types import FrameType
from typing import Self

# What schedulers send before they kill: SLURM's --signal=USR1@120, Kubernetes' TERM.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818  (it is no error: the run was asked to stop, and did)
    """The run stopped because it was asked to, behind a checkpoint; `--resume` goes on."""


class Stop:
    """Within `with Stop() as stop:`, `stop.asked` turns true at the first signal. Off the main thread it listens to none."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        try:
            self._before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        except ValueError:  # not the main thread: signals are somebody else's
            self._before = {}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = True
