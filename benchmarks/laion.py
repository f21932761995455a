"""LAION-400M on 64 GPUs, on paper: requests, bytes, stalls, start-up, what a lost node costs. A simulation, no measurement.

What is real: the order of the samples (`BlocksOrder`, `RandomOrder`), the pieces that are fetched for them, how many steps
ahead they are announced, how many threads fetch, when a request counts as silent, and what the cache keeps. What is assumed:
the data's sizes (img2dataset's own figures), the GPUs' speed (`owl plan`'s FLOPs at 45 % of 989 TFLOP/s) and the store. Each
of its answers begins after a lognormal time, one in a thousand some seconds later; one in ten thousand is an error, and one
in a million never comes.

    python -m benchmarks.laion [--steps 300] [--random-steps 30] [--latency 0.05] [--sigma 0.6] [--line 3.1] [--seed 0]
"""

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from mplug_owl.data.loader import AHEAD
from mplug_owl.data.order import BlocksOrder, Order, RandomOrder
from mplug_owl.data.sources.chunks import CHUNK, DEFAULT_GB
from mplug_owl.data.sources.read_ahead import STREAMED, THREADS
from mplug_owl.data.sources.store import PAUSES, SILENCE

# github.com/rom1504/img2dataset, dataset_examples/laion400m.md: 10 TB at 256 pixels; 400 million samples in 41,408 shards.
SHARDS, SAMPLES, BYTES = 41_408, 400_000_000, 10e12
EACH = SAMPLES // SHARDS
SHARD_BYTES = int(BYTES / SHARDS)
PIECES = -(-SHARD_BYTES // CHUNK)
GPUS, A_NODE = 64, 8
# 65 positions of a picture and a caption of some 20 tokens with its marks; 4 x 6.607e9 FLOPs a token, 5.4e11 a picture.
TOKENS = 90
FLOPS = 4 * 6.607e9 * TOKENS + 5.4e11
SPEED = 0.45 * 989e12 / FLOPS
# 2,097,152 tokens a step (paper, section 3.1), the same number of samples for each GPU.
BATCH = round(2_097_152 / TOKENS / GPUS) * GPUS
SECONDS = BATCH / GPUS / SPEED
# Data workers of a GPU, steps between checkpoints (paper.pretrain), seconds until a silent process is taken for dead.
WORKERS, SAVE_EVERY, RESTART = 4, 1000, 600.0
# Headers of a shard read from its copy.
OPENING = 0.5


@dataclass
class Store:
    """An object store as the nodes meet it; counts what it is asked. Times in seconds, `line` in GB/s a node."""

    latency: float
    sigma: float
    line: float
    random: np.random.Generator
    requests: int = 0
    bytes: int = 0
    free: dict[int, float] = field(default_factory=dict)

    def answered(self, node: int, at: float, size: int) -> float:
        """When `size` bytes asked for at a time have come, after as many tries as it takes."""
        for pause in (*PAUSES, 0.0):
            self.requests += 1
            luck = self.random.random()
            begins = at + self.latency * float(np.exp(self.sigma * self.random.standard_normal()))
            if luck < 1e-6:
                at += SILENCE + pause
            elif luck < 1e-4:
                at = begins + pause
            else:
                break
        if luck > 1 - 1e-3:
            begins += self.random.uniform(1, 5)
        # GPUs of a node share its line; nodes share nothing but the store.
        self.free[node] = max(at, self.free.get(node, 0.0)) + size / (self.line * 1e9)
        begins = max(begins, self.free[node])
        self.bytes += size
        return begins + size / 60e6  # one connection


@dataclass(frozen=True)
class Outcome:
    """What a simulated training met. `stalls` are the seconds that each step waited after the first."""

    steps: int
    requests: int
    bytes: int
    first: float
    stalls: np.ndarray

    @property
    def waited(self) -> float:
        return float(self.stalls.sum() / (self.stalls.sum() + self.steps * SECONDS))


def owners(world: int) -> np.ndarray:
    """The node of each sample of a step [BATCH], by its position."""
    return (np.arange(BATCH) % world) // A_NODE


def pieces(order: Order, step: int) -> np.ndarray:
    """The pieces that the samples of a step lie in [BATCH, 2]: their first byte's and their last byte's."""
    positions = np.arange(step * BATCH, (step + 1) * BATCH)
    shards, rows = np.divmod(order.at(0, positions % (SHARDS * EACH)), EACH)
    size = SHARD_BYTES / EACH
    return np.stack([shards * PIECES + ((rows + end) * size - end).astype(np.int64) // CHUNK for end in (0, 1)], axis=1)


def piece_bytes(piece: int) -> int:
    """The last piece of a shard is shorter."""
    return min(CHUNK, SHARD_BYTES - piece % PIECES * CHUNK)


def wanted(found: np.ndarray, nodes: np.ndarray, node: int) -> list[int]:
    """The pieces that a node needs for a step, and the piece after each, as `read_ahead.expect` has them."""
    own = np.unique(found[nodes == node]).tolist()
    following = [piece + 1 for piece in own if (piece + 1) % PIECES]
    return list(dict.fromkeys([*own, *following]))


def begin(starts: list[float], there: float) -> None:
    """Add when a step begins: once its samples are there and the step before has ended."""
    starts.append(max(starts[-1] + SECONDS if starts else 0.0, there))


def outcome(store: Store, starts: Sequence[float]) -> Outcome:
    """What a training met whose steps began at these seconds."""
    stalls = np.array([start - (before + SECONDS) for before, start in pairwise(starts)])
    return Outcome(len(starts), store.requests, store.bytes, starts[0], stalls)


def blocks(order: Order, store: Store, steps: int, known: bool) -> Outcome:
    """Train on shards in blocks. What is not `known` are the shards' tables: the whole shard comes before its first sample."""
    nodes, starts = owners(GPUS), list[float]()
    arrived: list[dict[int, float]] = [{} for _ in range(GPUS // A_NODE)]
    ready: list[dict[int, float]] = [{} for _ in arrived]
    needs: list[list[np.ndarray]] = []
    for step in range(steps):
        for soon in range(len(needs), min(step + AHEAD + 1, steps)):
            found, asked = pieces(order, soon), starts[-1] if starts else 0.0
            needs.append([np.unique(found[nodes == node]) for node in range(len(arrived))])
            for node, have in enumerate(arrived):
                if not known:
                    for shard in np.unique(needs[soon][node] // PIECES).tolist():
                        if shard not in ready[node]:
                            ready[node][shard] = opened(store, node, shard, asked, have)
                for piece in wanted(found, nodes, node):
                    if piece not in have:
                        have[piece] = store.answered(node, asked, piece_bytes(piece))
        there = max(arrived[node][piece] for node, own in enumerate(needs[step]) for piece in own.tolist())
        if not known:
            shards = [(node, piece // PIECES) for node, own in enumerate(needs[step]) for piece in own.tolist()]
            there = max(there, *(ready[node][shard] for node, shard in shards))
        begin(starts, there)
    return outcome(store, starts)


def opened(store: Store, node: int, shard: int, at: float, have: dict[int, float]) -> float:
    """When a shard has been fetched whole, `STREAMED` pieces at once, and its headers are read."""
    connections = [at] * STREAMED
    for piece in range(shard * PIECES, (shard + 1) * PIECES):
        have[piece] = store.answered(node, heapq.heappop(connections), piece_bytes(piece))
        heapq.heappush(connections, have[piece])
    return max(connections) + OPENING


def scattered(order: Order, store: Store, steps: int) -> Outcome:
    """Train on samples from anywhere: a request each, `THREADS` at once in every data worker."""
    starts, there = list[float](), list[float]()
    threads = [[0.0] * (THREADS * WORKERS) for _ in range(GPUS)]
    size = SHARD_BYTES // EACH
    for step in range(steps):
        for _ in range(len(there), min(step + AHEAD + 1, steps)):
            asked, last = starts[-1] if starts else 0.0, 0.0
            for position in range(BATCH):
                free = threads[position % GPUS]
                came = store.answered(position % GPUS // A_NODE, max(asked, heapq.heappop(free)), size)
                heapq.heappush(free, came)
                last = max(last, came)
            there.append(last)
        begin(starts, there[step])
    return outcome(store, starts)


def fetched(order: Order, steps: range, world: int, kept: list[dict[int, int]]) -> list[int]:
    """The bytes that each node fetches in these steps. `kept` are the pieces of its cache, the oldest first; they change."""
    nodes, sums = owners(world), [0] * len(kept)
    for step in steps:
        found = pieces(order, step)
        for node, cache in enumerate(kept):
            for piece in wanted(found, nodes, node):
                if piece not in cache:
                    cache[piece] = piece_bytes(piece)
                    sums[node] += cache[piece]
            while sum(cache.values()) > DEFAULT_GB * 1e9:
                del cache[next(iter(cache))]
    return sums


def lost(order: Order) -> tuple[list[int], int, int]:
    """A node is lost just before a checkpoint, the worst instant. What each node fetches again, the new one being the last of
    the list; and what a node fetches for 20 steps on 64 and on 56 GPUs.
    """
    kept: list[dict[int, int]] = [{} for _ in range(GPUS // A_NODE)]
    fetched(order, range(SAVE_EVERY), GPUS, kept)
    kept[-1] = {}
    again = fetched(order, range(SAVE_EVERY), GPUS, kept)
    rates = []
    for world in (GPUS, GPUS - A_NODE):
        cold: list[dict[int, int]] = [{} for _ in range(world // A_NODE)]
        fetched(order, range(20), world, cold)
        rates.append(max(fetched(order, range(20, 40), world, cold)))
    return again, rates[0], rates[1]


def row(name: str, outcome: Outcome) -> None:
    """Print one line of the table."""
    seconds = outcome.steps * SECONDS + float(outcome.stalls.sum())
    samples = outcome.steps * BATCH
    print(
        f"{name:28} {samples / outcome.requests:8.1f} {outcome.requests / seconds:10,.0f} "
        f"{outcome.bytes / seconds / 8e6:10,.0f} {outcome.first:8.1f} {outcome.waited:8.2%} "
        f"{outcome.stalls.max(initial=0):8.1f}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Outcome]:
    """Print the plan; return what was simulated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("latency", 0.05), ("sigma", 0.6), ("line", 3.1)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, number in (("steps", 300), ("random-steps", 30), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args(arguments)

    def store() -> Store:
        return Store(options.latency, options.sigma, options.line, np.random.default_rng(options.seed))

    size = SHARD_BYTES / EACH / 1e3
    print(f"{SAMPLES / 1e6:.0f} M samples, {SHARDS:,} shards of {SHARD_BYTES / 1e6:.0f} MB, {size:.1f} KB a sample")
    print(
        f"{GPUS} GPUs, {A_NODE} a node: {SPEED:.0f} samples/s each, {BATCH:,} samples a step of {SECONDS:.2f} s, "
        f"an epoch in {SAMPLES / BATCH:,.0f} steps and {SAMPLES / SPEED / GPUS / 3600:.1f} h"
    )
    print(f"{'order':28} {'samples':>8} {'requests':>10} {'MB/s':>10} {'first':>8} {'stalls':>8} {'longest':>8}")
    print(f"{'':28} {'/request':>8} {'/s':>10} {'a node':>10} {'step s':>8} {'':>8} {'s':>8}")
    near = BlocksOrder(np.full(SHARDS, EACH), options.seed, 0)
    outcomes = {
        "blocks, tables known": blocks(near, store(), options.steps, known=True),
        "blocks, nothing known": blocks(near, store(), options.steps, known=False),
        "random": scattered(RandomOrder(SHARDS * EACH, options.seed, 0), store(), options.random_steps),
    }
    for name, outcome in outcomes.items():
        row(name, outcome)
    again, same, fewer = lost(near)
    print(
        f"a lost node, at worst: {SAVE_EVERY} steps and {(SAVE_EVERY * SECONDS + RESTART) / 60:.0f} minutes; fetched again by "
        f"the new node {again[-1] / 1e9:.1f} GB, by each other node {max(again[:-1]) / 1e9:.1f} GB"
    )
    print(f"20 steps: {same / 1e9:.2f} GB a node on {GPUS} GPUs, {fewer / 1e9:.2f} GB a node on {GPUS - A_NODE}")
    return outcomes


if __name__ == "__main__":
    main()
