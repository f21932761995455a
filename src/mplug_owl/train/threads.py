"""How a step's passes use a CPU's cores: by one thread or by all, whichever is faster, timed on the run's own steps.

Passes of a small model are computed side by side, a thread each: threads that share every single product wait for one another
thousands of times a step, and where another program keeps one core busy they are 3 to 20 times as slow as one alone.
No number of the run depends on any of this, so it can be decided anew whenever the pace changes.
"""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

# Backward nodes that split a sum among threads. Of all operations in a step of bf16 no others rounded in another way.
SPLIT_SUMS = ("SoftmaxBackward0", "NativeLayerNormBackward0", "ConvolutionBackward0")
# Two passes side by side need twice the memory, so at most two, and of models with no more parameters than this.
SIDE_BY_SIDE, SMALL = 2, 100_000_000
# Two steps at DROP times the usual time, or one at COLLAPSE times, are a drop in pace. The last USUAL steps are the usual.
DROP, COLLAPSE, USUAL = 1.5, 3.0, 9
# A trial has ROUNDS steps of each number, and ends at once where one takes CLEAR times as long as the other.
ROUNDS, CLEAR = 3, 3.0
# Trials may cost this share of a run's time, and are at least PAUSE seconds apart.
SHARE, PAUSE = 0.02, 30.0

Forward = Callable[[], Tensor]


class Threads:
    """Computes gradients with the number of threads that is faster; within `with`, for torch has its own number afterwards.

    Args:
        learner: the weights whose gradients are summed.
        candidates: two numbers of threads are timed against each other, one is used, none leaves torch alone.
        at_once: how many passes may be computed side by side.
        note: called with a sentence whenever another number is chosen.
    """

    def __init__(
        self,
        learner: nn.Module,
        candidates: tuple[int, ...] = (),
        at_once: int = SIDE_BY_SIDE,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self.fixed = candidates[0] if len(candidates) == 1 else None
        self.choice = Choice(*candidates) if len(candidates) == 2 else None
        small = sum(parameter.numel() for parameter in learner.parameters()) <= SMALL
        self.at_once = at_once if small else 1
        self.note = note
        self.pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="pass")

    def __enter__(self) -> "Threads":
        self.before = torch.get_num_threads()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.before)

    def backward(self, passes: Sequence[Forward], seeds: Sequence[int], positions: int) -> Tensor:
        """Forward and backward through a step's passes: adds the gradients to the weights, returns the sum of the losses.

        Args:
            passes: each computes its share of the step's loss.
            seeds: what each draws its dropout from.
            positions: language positions in all passes, by which steps of different sizes are compared.
        """
        began = time.perf_counter()
        count = self.choice.turn if self.choice is not None else self.fixed
        at_once = min(count or 1, len(passes), self.at_once)
        if count is not None:
            torch.set_num_threads(count // max(1, at_once))
        losses = self._side_by_side(passes, seeds) if at_once > 1 else self._in_turn(passes, seeds)
        if self.choice is not None:
            self._decide(self.choice, time.perf_counter() - began, positions)
        return sum(losses, start=torch.zeros((), device=self.weights[0].device))

    def _in_turn(self, passes: Sequence[Forward], seeds: Sequence[int]) -> list[Tensor]:
        losses = []
        for forward, seed in zip(passes, seeds, strict=True):
            torch.manual_seed(seed)
            loss = forward()
            keep_sums_whole(loss)
            loss.backward()
            losses.append(loss.detach())
        return losses

    def _side_by_side(self, passes: Sequence[Forward], seeds: Sequence[int]) -> list[Tensor]:
        """The same to the bit: each pass has gradients of its own, and they are summed in the order of the passes.

        Torch has one generator for all threads. If the passes drew from it, they are computed again in turn, now and later.
        """
        torch.manual_seed(seeds[0])
        drawn, threads = torch.get_rng_state(), torch.get_num_threads()
        results = list(self.pool.map(partial(gradients, weights=self.weights, threads=threads), passes))
        if not torch.equal(drawn, torch.get_rng_state()):
            self.at_once = 1
            return self._in_turn(passes, seeds)
        for _, found in results:
            for weight, gradient in zip(self.weights, found, strict=True):
                if gradient is not None:
                    weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)
        return [loss for loss, _ in results]

    def _decide(self, choice: "Choice", seconds: float, positions: int) -> None:
        used = choice.used
        choice.add(seconds, positions)
        if choice.used != used:
            self.note(f"computing with {_threads(choice.used)}, now faster than {_threads(used)}")


def gradients(forward: Forward, weights: Sequence[Tensor], threads: int) -> tuple[Tensor, Sequence[Tensor | None]]:
    """The loss of one pass and its gradients, left apart; None where the pass does not reach a weight."""
    torch.set_num_threads(threads)  # every thread of Python has a number of its own
    loss = forward()
    keep_sums_whole(loss)
    return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)


def keep_sums_whole(loss: Tensor) -> None:
    """Let the backward pass of a loss round in the same way with every number of threads."""
    threads = torch.get_num_threads()
    if loss.device.type != "cpu" or threads == 1:
        return
    for node in _nodes(loss):
        if node.name() in SPLIT_SUMS:
            node.register_prehook(lambda gradients: torch.set_num_threads(1))
            node.register_hook(lambda inputs, outputs: torch.set_num_threads(threads))


class Choice:
    """Which of two numbers of threads is faster, from how long steps took; `turn` is the number for the next."""

    def __init__(self, used: int, other: int) -> None:
        self.used, self.other = used, other
        self.turn = used
        self.usual: deque[float] = deque(maxlen=USUAL)  # paces of the used number: seconds a position
        self.trial: dict[int, list[float]] = {}  # paces of both, while there is a trial
        self.lost = 0.0  # seconds that the last trial took longer than without it
        self.since = 0.0  # seconds since the last trial
        self.wait = 0.0  # seconds until the next

    def add(self, seconds: float, positions: int) -> None:
        """A step with `turn` threads took so long; decide about the next."""
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
        """A step of the trial: the two take turns until one is clearly faster or the rounds are over."""
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
