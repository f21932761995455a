"""Being asked to stop: SIGTERM and SIGUSR1 let the step end and the checkpoint be written; one more later leaves at once."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

# What schedulers send before they kill: SLURM's --signal=USR1@120, Kubernetes' TERM.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A job's signal may come twice: SLURM sends it to every process, and torchrun passes its own on to those that it started.
# Signals of so many seconds are one.
TOGETHER = 5.0


class Stop:
    """Within `with Stop() as stop:`, `stop.asked` turns true at the first signal. Off the main thread it listens to none.

    Another one after `TOGETHER` seconds ends the process at once.
    `grace_seconds` is how many seconds the scheduler gives before it kills, None for as many as it takes.
    """

    def __init__(self, grace_seconds: float | None = None) -> None:
        self.asked, self.grace_seconds = False, grace_seconds
        self._step_ended: float | None = None
        self._heard_at = -TOGETHER

    def __enter__(self) -> Self:
        listens = threading.current_thread() is threading.main_thread()  # elsewhere signals are somebody else's
        self._before = {number: signal.signal(number, self._heard) for number in SIGNALS} if listens else {}
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def step_ended(self, writing: float) -> list[str]:
        """A sentence, once, where the last step and a checkpoint of `writing` seconds took longer than `grace_seconds`."""
        before, self._step_ended = self._step_ended, time.monotonic()
        if self.grace_seconds is None or before is None or self._step_ended - before + writing <= self.grace_seconds:
            return []
        sentence = (
            f"a step takes {self._step_ended - before:.1f} s and writing a checkpoint {writing:.1f} s: killed "
            f"{self.grace_seconds:g} s after it is asked to stop, this run loses what it learned since the last checkpoint; "
            "give it more time (SLURM's "
            "--signal=TERM@SECONDS, Kubernetes' terminationGracePeriodSeconds) and say so by grace_seconds=SECONDS"
        )
        self.grace_seconds = None
        return [sentence]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and now - self._heard_at > TOGETHER:
            os._exit(128 + number)
        self._heard_at = self._heard_at if self.asked else now
        self.asked = True
