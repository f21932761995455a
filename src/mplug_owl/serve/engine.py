"""One thread that answers: jobs come in from any thread, and every token goes out as soon as it is chosen.

Jobs of one model are continued in one batch. They join at the next token, leave when they are done, and are cancelled between
two tokens. The engine knows ids, not words.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mplug_owl.chat.protocol import Decoding
from mplug_owl.serve.kept import KnownPicture

# So long may a job wait for others that are nearly here: several prompts are read in less time than one after the other.
COMPANY_SECONDS = 0.04

Reason = Literal["stop", "length", "cancelled", "late", "failed"]


@dataclass(frozen=True)
class Token:
    """One more token of an answer; `logprob` and the likeliest others with theirs where a job asks for them."""

    id: int
    logprob: float = 0.0
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class End:
    """Why an answer ended: at an end token or stop word, at a limit of tokens or seconds, unwanted, late, or by a fault."""

    reason: Reason


@dataclass
class Job:
    """One answer that somebody waits for.

    Args:
        ids: The prompt.
        pictures: Those of the prompt, in order.
        decoding: How tokens are chosen, and how many at most.
        tell: Called in the engine's thread with each token, and once with the end.
        owner: Whose job it is: what was computed for one owner is never used for another.
        seed: What its tokens are drawn by.
        logprobs: How many of the likeliest tokens are reported with each; None for no numbers at all.
        deadline: By time.monotonic(); an answer ends there.
    """

    ids: Sequence[int]
    pictures: Sequence[KnownPicture]
    decoding: Decoding
    tell: Callable[[Token | End], None]
    owner: bytes = b""
    seed: int = 0
    logprobs: int | None = None
    deadline: float = float("inf")
    cancelled: bool = False
    reported: int = 0  # so many of its tokens
    known: int = 0  # so many of its prompt's tokens were computed for an earlier turn
    begun: float = field(default_factory=time.perf_counter)
    picture_seconds: float = 0.0


class Batch(Protocol):
    """The jobs of one model, as `lane.Lane` has them."""

    def add(self, job: Job) -> None:
        """Take a job in; it waits until it is admitted."""

    def turn(self, admits: bool = True) -> None:
        """Drop who is cancelled, admit who waits where it `admits`, one more token for everybody."""

    def fail(self) -> None:
        """End every job by a fault and begin anew."""

    @property
    def queued(self) -> int:
        """How many jobs wait."""

    @property
    def busy(self) -> bool:
        """Whether any job is in it."""

    @property
    def continues(self) -> bool:
        """Whether any job has been admitted and is not done."""


class QueueFullError(Exception):
    """More jobs wait than may."""


class ClosedError(Exception):
    """The engine takes no more jobs."""


class Engine:
    """Runs batches turn by turn in a thread of its own.

    Args:
        batches: Each model's, by its name.
        queue: At most so many jobs wait.
    """

    def __init__(self, batches: Mapping[str, Batch], queue: int) -> None:
        self.batches, self.queue = dict(batches), queue
        self._inbox: deque[tuple[str, Job]] = deque()
        self._changed = threading.Condition()
        self._closed, self._coming, self._held = False, 0, 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, model: str, jobs: Sequence[Job]) -> None:
        """Have all of these jobs answered.

        Raises:
            QueueFullError: Not all of them may wait; then none does.
            ClosedError: The engine was closed, or died.
        """
        with self._changed:
            if self._closed or not self.is_alive:
                raise ClosedError
            if self.waiting + len(jobs) > self.queue:
                raise QueueFullError
            self._inbox += [(model, job) for job in jobs]
            self._changed.notify()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """A block in which jobs are made ready: those that wait already are held back a moment for their company."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                self._changed.notify()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._inbox) + sum(batch.queued for batch in self.batches.values())

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer what was submitted, take nothing more, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._inbox and not self._closed and not self._is_busy:
                    self._changed.wait()
                admits = self._await_company()
                while self._inbox:
                    model, job = self._inbox.popleft()
                    self.batches[model].add(job)
            busy = [batch for batch in self.batches.values() if batch.busy]
            if not busy:  # it is closed, and everything is answered
                return
            for batch in busy:
                _turn(batch, admits)

    @property
    def _is_busy(self) -> bool:
        return any(batch.busy for batch in self.batches.values())

    def _await_company(self) -> bool:
        """Whether those who wait are admitted now; where nothing else is to be done, after waiting for their company."""
        if not self.waiting:
            self._held = 0.0
            return True
        now = time.monotonic()
        self._held = self._held or now + COMPANY_SECONDS
        while self._coming and now < self._held and not self._closed:
            if any(batch.continues for batch in self.batches.values()):
                return False
            self._changed.wait(self._held - now)
            now = time.monotonic()
        self._held = 0.0
        return True


def _turn(batch: Batch, admits: bool) -> None:
    """One turn; a fault in it ends that batch's jobs, and nobody else's."""
    try:
        batch.turn(admits)
    except Exception:  # whatever a model does, other models and later requests are answered
        batch.fail()
        with suppress(OSError, ValueError):  # nobody reads the log any more, or its disk is full
            traceback.print_exc(file=sys.stderr)
