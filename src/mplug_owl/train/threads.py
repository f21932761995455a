"""How a step uses a CPU's cores: by one thread or by several, whichever is faster, timed on the run's own steps.

Passes of a small model are computed side by side, a thread each, and their gradients are summed in the order of the passes.
So no number of the run depends on how many there are, and it is decided anew whenever the pace changes.
Elsewhere threads share every product. They wait for each other thousands of times a step, and where another program keeps one
core busy they are 3 to 20 times as slow as one. Sums depend on their number, so it is decided once and kept.
"""

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mplug_owl.train import checkpoint
from mplug_owl.train.checkpoint import Checkpoint
from mplug_owl.train.recipe import Recipe

# Passes side by side each need memory for themselves: so many at most, of models with no more parameters than this.
AT_ONCE, SMALL = 4, 50_000_000
# Two steps at DROP times the usual time, or one at COLLAPSE times, are a drop in pace. The last USUAL steps are the usual.
DROP, COLLAPSE, USUAL = 1.5, 3.0, 9
# A trial has ROUNDS steps of each number, and ends at once where one takes CLEAR times as long as the other.
ROUNDS, CLEAR = 3, 3.0
# Trials may cost this share of a run's time, and are at least PAUSE seconds apart.
SHARE, PAUSE = 0.02, 30.0

Forward = Callable[[], Tensor]


class Threads:
    """Computes gradients by the number of threads that is faster; within `with`, for torch has its own number afterwards.

    Args:
        learner: the weights whose gradients are summed.
        shared: so many threads share every product, and passes are computed in turn. None chooses.
        most: threads to choose from; 1 leaves torch as it is.
        begun: whether the run resumes; what it chose when it began was `shared`.
        note: called with a sentence when another number is chosen.
    """

    def __init__(
        self,
        learner: nn.Module,
        shared: int | None = None,
        most: int = 1,
        begun: bool = False,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self.small = sum(parameter.numel() for parameter in learner.parameters()) <= SMALL
        self.shared, self.most, self.note = shared, most, note
        self.undecided = shared is None and most > 1 and not begun
        self.side_by_side = shared is None and most > 1
        self.choice = Choice(1, min(most, AT_ONCE))
        self.pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pass")

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
        if passes and self.undecided:
            self._begin(passes)
        if self.side_by_side:
            losses = self._timed(passes, seeds, positions)
        else:
            if self.shared is not None:
                torch.set_num_threads(self.shared)
            losses = self._in_turn(passes, seeds)
        return sum(losses, start=torch.zeros((), device=self.weights[0].device))

    def _begin(self, passes: Sequence[Forward]) -> None:
        """Whether this run's passes can be computed side by side. If not, how many threads share their products."""
        self.undecided = False
        if len(passes) == 1 or not self.small or _draws(passes[0], self.weights):
            self.side_by_side = False
            self.shared = _faster(passes[0], self.weights, self.most)
            self.note(f"computing with {_threads(self.shared)}, timed before the first step")

    def _timed(self, passes: Sequence[Forward], seeds: Sequence[int], positions: int) -> list[Tensor]:
        """The passes of a step, as many at once as the choice says; the choice learns how long they took."""
        began, used = time.perf_counter(), self.choice.used
        torch.set_num_threads(1)
        losses = self._in_turn(passes, seeds) if self.choice.turn == 1 else self._at_once(passes, seeds, self.choice.turn)
        self.choice.add(time.perf_counter() - began, positions)
        if self.choice.used != used:
            self.note(f"computing with {_threads(self.choice.used)}, now faster than {_threads(used)}")
        return losses

    def _in_turn(self, passes: Sequence[Forward], seeds: Sequence[int]) -> list[Tensor]:
        losses = []
        for forward, seed in zip(passes, seeds, strict=True):
            torch.manual_seed(seed)
            loss = forward()
            if loss.requires_grad:  # words alone reach nothing that learns where f_L is frozen
                loss.backward()
            losses.append(loss.detach())
        return losses

    def _at_once(self, passes: Sequence[Forward], seeds: Sequence[int], count: int) -> list[Tensor]:
        """The same bits as in turn: each pass has gradients of its own, and they are summed in the order of the passes.

        Torch has one generator for all threads. If passes drew from it, they are computed again, now and later in turn.
        """
        if not passes:
            return []
        torch.manual_seed(seeds[0])
        drawn = torch.get_rng_state()
        results: list[tuple[Tensor, Sequence[Tensor | None]]] = []
        for first in range(0, len(passes), count):
            results += self.pool.map(partial(_gradients, weights=self.weights), passes[first : first + count])
        if not torch.equal(drawn, torch.get_rng_state()):
            self.side_by_side, self.shared = False, 1
            return self._in_turn(passes, seeds)
        for _, found in results:
            for weight, gradient in zip(self.weights, found, strict=True):
                if gradient is not None:
                    weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)
        return [loss for loss, _ in results]


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


def open_threads(
    recipe: Recipe, learner: nn.Module, accelerator: Accelerator, found: Checkpoint | None, note: Callable[[str], None]
) -> Threads:
    """The threads of a run: the recipe's number, or the one it chose before the checkpoint that was found, or its choice."""
    most = most_threads(accelerator.device, accelerator.num_processes, recipe.compile)
    saved = checkpoint.recipe_of(found).get("threads") if found is not None and most > 1 else None
    chosen = recipe.threads or (saved if isinstance(saved, int) else None)
    return Threads(learner, chosen, most, found is not None, note)


def most_threads(device: torch.device, processes: int = 1, compiled: bool = False) -> int:
    """Threads that `Threads` may choose from. One on a GPU, for compiled code, and for processes that share a model.

    One also where OMP_NUM_THREADS is set, for a user has chosen. Never more than torch was set to.
    """
    if device.type != "cpu" or compiled or processes > 1 or "OMP_NUM_THREADS" in os.environ:
        return 1
    return min(cores(), torch.get_num_threads())


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


def _gradients(forward: Forward, weights: Sequence[Tensor], threads: int = 1) -> tuple[Tensor, Sequence[Tensor | None]]:
    """The loss of one pass and its gradients, left apart; None where the pass does not reach a weight."""
    torch.set_num_threads(threads)  # every thread of Python has a number of its own
    loss = forward()
    if not loss.requires_grad:
        return loss.detach(), [None] * len(weights)
    return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)


def _draws(forward: Forward, weights: Sequence[Tensor]) -> bool:
    """Whether a pass draws random numbers, as dropout does."""
    before = torch.get_rng_state()
    _gradients(forward, weights)
    return not torch.equal(before, torch.get_rng_state())


def _faster(forward: Forward, weights: Sequence[Tensor], most: int) -> int:
    """One thread, or all sharing every product: the faster of two tries each, of one where all are clearly slower."""
    best = {1: math.inf, most: math.inf}
    for _ in range(2):
        for count in best:
            began = time.perf_counter()
            _gradients(forward, weights, count)
            best[count] = min(best[count], time.perf_counter() - began)
        if best[most] > CLEAR * best[1]:
            break
    return min(best, key=lambda count: best[count])


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
