"""A step of another commit, for `benchmarks.against --before CHECKOUT`: run with that checkout in front on PYTHONPATH.

A line on stdin is the step as JSON; each further line is answered by the seconds that one step took.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


def step(samples: int, tokens: int, lora: bool, precision: str) -> Callable[[], object]:
    """The checkout's own step: by its `benchmarks.baseline`, or by `benchmarks.speed` where it has none yet."""
    try:
        from benchmarks import baseline
    except ImportError:
        return _by_speed(samples, tokens, lora, precision)
    learned = baseline.STAGE_2 if lora else baseline.STAGE_1
    return baseline.our_step(baseline.Step((tokens,) * samples, learned), precision)


def _by_speed(samples: int, tokens: int, lora: bool, precision: str) -> Callable[[], object]:
    """Until 82a4fad."""
    from dataclasses import replace

    from benchmarks import speed  # type: ignore[attr-defined]  # another checkout's
    from mplug_owl.recipes import tiny
    from mplug_owl.train.recipe import LoRA, Trainable

    recipe = replace(tiny.pretrain(), precision=precision)
    if lora:
        recipe = replace(recipe, trainable=Trainable("frozen", "frozen", "lora"), lora=LoRA(8, 32, 0.05))
    return speed.step(recipe, samples, tokens)


def main() -> None:
    """Make the step, then take it once for each line."""
    torch.set_num_threads(1)
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    run = step(**given)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}), flush=True)


if __name__ == "__main__":
    main()
