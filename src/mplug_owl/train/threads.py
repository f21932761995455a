"""How many threads compute a step on a CPU: one or all, whichever is faster, timed on the run's own passes.

Where another program keeps one core busy, threads wait for each other at every small product, and two are 3 to 20 times as
slow as one. So a run begins with one thread, tries all, and tries again when its pace drops and now and then.
No number of the run depends on the choice: the few sums that would are left to one thread.
"""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

# Backward nodes that split a sum among threads. Of all operations in a step of bf16 no others rounded in another way.
SPLIT_SUMS = ("SoftmaxBackward0", "NativeLayerNormBackward0", "ConvolutionBackward0")
# Two passes at DROP times the usual time, or one at COLLAPSE times, are a drop in pace. The last USUAL passes are the usual.
DROP, COLLAPSE, USUAL = 1.5, 3.0, 9
# A trial has ROUNDS passes of each number, and ends at once where one takes CLEAR times as long as the other.
ROUNDS, CLEAR = 3, 3.0
# Trials may cost this share of a run's time, and are at least PAUSE seconds apart.
SHARE, PAUSE = 0.02, 30.0


class Threads:
    """Torch's number of threads within `with Threads(...) as threads:`, afterwards what it was before.

    Args:
        candidates: two numbers are timed against each other, one is used, none leaves torch alone.
        note: called with a sentence whenever another number is chosen.
    """

    def __init__(self, candidates: tuple[int, ...] = (), note: Callable[[str], None] = lambda sentence: None) -> None:
        self.candidates, self.note = candidates, note
        self.choice = Choice(*candidates) if len(candidates) == 2 else None

    def __enter__(self) -> "Threads":
        self.before = torch.get_num_threads()
        if self.candidates:
            torch.set_num_threads(self.candidates[0])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_num_threads(self.before)

    @contextmanager
    def timed(self, positions: int) -> Iterator[None]:
        """One forward and backward pass over `positions` language positions, its pace measured."""
        if self.choice is None:
            yield
            return
        torch.set_num_threads(self.choice.turn)
        began, used = time.perf_counter(), self.choice.used
        yield
        self.choice.add(time.perf_counter() - began, positions)
        torch.set_num_threads(self.choice.used)
        if self.choice.used != used:
            self.note(f"computing with {_threads(self.choice.used)}, now faster than {_threads(used)}")

    def backward(self, loss: torch.Tensor) -> None:
        """`loss.backward()`, to the same bits with every number of threads."""
        count = torch.get_num_threads()
        if loss.device.type == "cpu" and count > 1:
            for node in _nodes(loss):
                if node.name() in SPLIT_SUMS:
                    node.register_prehook(lambda gradients: torch.set_num_threads(1))
                    node.register_hook(lambda inputs, outputs: torch.set_num_threads(count))
        loss.backward()


class Choice:
    """Which of two numbers of threads is faster, from how long passes took; `turn` is the number for the next pass."""

    def __init__(self, used: int, other: int) -> None:
        self.used, self.other = used, other
        self.turn = used
        self.usual: deque[float] = deque(maxlen=USUAL)  # paces of the used number: seconds a position
        self.trial: dict[int, list[float]] = {}  # paces of both, while there is a trial
        self.lost = 0.0  # seconds that the last trial took longer than without it
        self.since = 0.0  # seconds since the last trial
        self.wait = 0.0  # seconds until the next

    def add(self, seconds: float, positions: int) -> None:
        """A pass with `turn` threads took so long; decide about the next."""
        pace = seconds / max(1, positions)
        if self.trial:
            self._tried(pace, seconds)
            return
        self.usual.append(pace)
        self.since += seconds
        if len(self.usual) > 1 and (self._dropped() or self.since >= self.wait):
            self.trial, self.turn, self.lost = {self.used: [], self.other: []}, self.other, 0.0

    def _dropped(self) -> bool:
        """Whether threads of which there are many have become slow. One alone waits for nobody."""
        *before, last, latest = self.usual
        if self.used == 1 or len(before) < 3:
            return False
        usual = statistics.median(before)
        return latest > COLLAPSE * usual or min(last, latest) > DROP * usual

    def _tried(self, pace: float, seconds: float) -> None:
        """A pass of the trial: the two take turns until one is clearly faster or the rounds are over."""
        self.trial[self.turn].append(pace)
        if self.turn == self.other:
            self.lost += max(0.0, seconds * (1 - min(self.usual) / pace))
            self.turn = self.used
            return
        used, other = min(self.trial[self.used]), min(self.trial[self.other])
        if len(self.trial[self.used]) == ROUNDS or max(used, other) > CLEAR * min(used, other):
            self._decide(other < used)
        else:
            self.turn = self.other

    def _decide(self, change: bool) -> None:
        if change:
            self.used, self.other = self.other, self.used
        self.turn, self.trial = self.used, {}
        self.usual.clear()
        self.since, self.wait = 0.0, max(PAUSE, self.lost / SHARE)


def candidates(fixed: int | None, device: torch.device, precision: str, compiled: bool = False) -> tuple[int, ...]:
    """Numbers of threads for `Threads`: the fixed one, or one and all where the choice changes no number of the run.

    It would in fp32, where MKL rounds products of few rows in another way, and in compiled code. There, on a GPU and where
    OMP_NUM_THREADS is set torch keeps its number. All are never more than torch was set to.
    """
    if fixed is not None:
        return (fixed,)
    timed = device.type == "cpu" and precision == "bf16" and not compiled and "OMP_NUM_THREADS" not in os.environ
    most = min(cores(), torch.get_num_threads())
    return (1, most) if timed and most > 1 else ()


def cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores for this process: those it may run on, no more than its cgroup's quota, shared with its fellow processes."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    if quota is not None:
        allowed = min(allowed, int(quota))
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _quota(root: Path) -> float | None:
    """Cores that a container may use in all, in cgroup's second or first version; None where it may use every one."""
    if (second := root / "cpu.max").exists():
        quota, period = second.read_text().split()
    elif (first := root / "cpu" / "cpu.cfs_quota_us").exists():
        quota, period = first.read_text().strip(), (first.parent / "cpu.cfs_period_us").read_text()
    else:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _nodes(loss: torch.Tensor) -> Iterator[torch.autograd.graph.Node]:
    """Every node of a loss's backward pass."""
    seen: set[torch.autograd.graph.Node] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(following for following, _ in node.next_functions)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
