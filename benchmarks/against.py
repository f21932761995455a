"""The original, ours, and the limit in one run, in turn, on one thread, in units of one 2048^3 fp32 product of that run.

The limit is the products that a section cannot do without (`benchmarks.limit`). The original runs where its code and an
interpreter with its libraries are given by path (`benchmarks.original` says which); it is no part of this project. All is fp32
but with `--precision bf16`, which changes ours and the limit alone: on a CPU the original trains in fp32.

    python -m benchmarks.against [--original DIR --python EXECUTABLE] [--before CHECKOUT] [--sections stage1 lora ...]

ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 shows a CPU with AMX as one without.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import baseline, limit
from benchmarks.baseline import PADDED, STAGE_1, STAGE_2, Step, owl_263m
from benchmarks.beside import Beside
from benchmarks.command import checkout, count, machine

WORDS = 64


@dataclass(frozen=True)
class Cost:
    """Seconds that one round took."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Section:
    """What is compared: the original's work, ours by precision, the products by precision, and samples a round of each."""

    title: str
    work: str
    given: dict[str, Any]
    ours: Callable[[str], Callable[[], object]]
    limit: Callable[[str], Callable[[], object]]
    bars: dict[str, str]
    samples: tuple[int, int] = (1, 1)


def _step(title: str, samples: int, tokens: int, lora: bool, bars: dict[str, str]) -> Section:
    step = Step((tokens,) * samples, STAGE_2 if lora else STAGE_1)
    given = {"samples": samples, "tokens": tokens, "lora": lora}
    return Section(title, "step", given, lambda p: baseline.our_step(step, p), lambda p: limit.step_limit(step, p), bars)


def _real(title: str, lengths: tuple[int, ...], lora: bool, padded: int, bars: dict[str, str]) -> Section:
    """Real lengths: the original pads each sample to 512, ours has them end to end in one row."""
    step = Step(lengths, STAGE_2 if lora else STAGE_1, packed=True)
    given = {"samples": padded, "tokens": PADDED, "lora": lora}
    samples = padded, len(lengths)
    return Section(
        title, "step", given, lambda p: baseline.our_step(step, p), lambda p: limit.step_limit(step, p), bars, samples
    )


def sections() -> dict[str, Section]:
    """Each by its name on the command line."""
    made = {
        "stage1": _step("stage-1 step, 4 x 128", 4, 128, False, {"fp32": "limit x 1.08"}),
        "lora": _step("LoRA step, 2 x 512", 2, 512, True, {"fp32": "limit x 0.97"}),
    }
    for pictures in (1, 4):
        made[f"look{pictures}"] = Section(
            f"looking at {pictures}",
            "look",
            {"pictures": pictures},
            lambda p, n=pictures: baseline.our_look(n, p),
            lambda p, n=pictures: limit.look_limit(n, p),
            {},
        )
        made[f"words{pictures}"] = Section(
            f"{WORDS} greedy words, batch {pictures}",
            "words",
            {"batch": pictures, "count": WORDS},
            lambda p, n=pictures: baseline.our_words(n, WORDS, p),
            lambda p, n=pictures: limit.words_limit(n, WORDS, p),
            {"fp32": "limit x 1.12"},
        )
    talks = {"bf16": "3 x the original's samples/s"}
    seen = {"bf16": "8 x the original's samples/s with AVX-512 bf16, 15 x with AMX"}
    made["captions"] = _real("captions of real lengths", baseline.caption_lengths(12), False, 2, seen)
    made["conversations"] = _real("conversations", baseline.conversation_lengths(6), True, 2, talks)
    return made


class Elsewhere(Beside):
    """A script of ours run by other libraries or on other code, a round a call. `made` is what it said of what it made."""

    def __init__(self, script: str, python: str, task: dict[str, Any], path: Path | None = None) -> None:
        paths = () if path is None else (path / "src", path)
        super().__init__([python, str(Path(__file__).with_name(script))], paths, quiet=True)
        self.made: dict[str, float] = self.ask(json.dumps(task))

    def __call__(self) -> Cost:
        taken = self.ask("again")
        return Cost(taken["cpu"], taken["wall"])


def original(folder: Path, python: str, section: Section) -> Elsewhere:
    """The original's side of a section."""
    task = {"original": str(folder), "config": _original_config(), "work": section.work, "given": section.given}
    return Elsewhere("original.py", python, task)


def _original_config() -> dict[str, Any]:
    """The baseline's sizes under the original's names."""
    config = owl_263m()
    text = {"model_type": "llama", "vocab_size": baseline.VOCABULARY, "hidden_size": 768, "intermediate_size": 2048}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    abstractor = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "encoder_hidden_size": 768}
    return {
        "vision_config": {**vision, "layer_norm_eps": config.vision_config.layer_norm_eps},
        "visual_abstractor_config": {**abstractor, "num_hidden_layers": 6},
        "text_config": {**text, "num_hidden_layers": 12, "num_attention_heads": 12, "pad_token_id": 0},
        "num_query_tokens": 64,
    }


def timed(work: Callable[[], object]) -> Cost:
    """One call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def compare(
    section: Section, precision: str, repeats: int, others: dict[str, Callable[[], Cost]], parts: tuple[str, ...]
) -> dict[str, list[Cost]]:
    """Costs by way, in turn; the first round of each is not counted. "unit" is the product of the run."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    ways: dict[str, Callable[[], Cost]] = {"unit": lambda: min((timed(lambda: left @ right) for _ in range(3)), key=_cpu)}
    ways |= others
    for name, make in (("ours", section.ours), ("limit", section.limit)):
        if name in parts:
            work = make(precision)
            ways[name] = lambda work=work: timed(work)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            cost = way()
            costs[name] += [cost] if repeat else []
    return costs


def _cpu(cost: Cost) -> float:
    return cost.cpu


def report(section: Section, precision: str, costs: dict[str, list[Cost]]) -> dict[str, float]:
    """Print a section; returns the CPU figure of each way in units, the quickest round over the quickest product."""
    unit = min(map(_cpu, costs["unit"]))
    figures = {name: min(map(_cpu, taken)) / unit for name, taken in costs.items()}
    middle = statistics.median(map(_cpu, costs["unit"]))
    print(f"  one product {unit:.3f} s, median {middle:.3f}")
    for name, taken in costs.items():
        if name == "unit":
            continue
        median = statistics.median(map(_cpu, taken)) / middle
        wall = min(cost.wall for cost in taken)
        line = f"{figures[name]:6.1f} units, median {median:6.1f}; {min(map(_cpu, taken)):.3f} CPU s, {wall:.3f} s by the clock"
        print(f"  {name:9}{line}", flush=True)
    each = dict(zip(("original", "ours"), section.samples, strict=True))
    if section.samples != (1, 1):
        for name in each.keys() & figures.keys():
            print(f"  {name:9}{each[name] / min(map(_cpu, costs[name])):6.2f} samples a CPU second")
    if {"ours", "limit"} <= figures.keys():
        print(f"  ours / limit {figures['ours'] / figures['limit']:.3f}")
    if {"ours", "original"} <= figures.keys():
        times = figures["original"] / each["original"] / (figures["ours"] / each["ours"])
        print(f"  ours is {times:.2f} times as quick as the original")
    if {"ours", "before"} <= figures.keys():
        print(f"  ours in {precision} / before in fp32 {figures['ours'] / figures['before']:.3f}")
    if precision in section.bars:
        print(f"  bar: {section.bars[precision]}")
    return figures


def main(given: argparse.Namespace) -> None:
    """Measure and print each section."""
    torch.set_num_threads(1)
    known = sections()
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "all instructions")
    where = f"{machine()}, {isa}, torch {torch.__version__}, one thread"
    print(f"{where}; ours and the limit in {given.precision}; the quickest of {given.repeats}", flush=True)
    for name in given.sections or known:
        section = known[name]
        print(f"{name}: {section.title}", flush=True)
        with ExitStack() as stack:
            others: dict[str, Callable[[], Cost]] = {}
            if given.original is not None:
                theirs = stack.enter_context(original(given.original, given.python, section))
                if theirs.made["parameters"] != baseline.PARAMETERS:
                    raise SystemExit(f"the original has {theirs.made['parameters']:,} parameters, not {baseline.PARAMETERS:,}")
                others["original"] = theirs
            if given.before is not None and section.samples == (1, 1) and section.work == "step":
                task = {**section.given, "precision": "fp32"}
                others["before"] = stack.enter_context(Elsewhere("before.py", sys.executable, task, given.before))
            report(section, given.precision, compare(section, given.precision, given.repeats, others, given.parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, help="the folder that holds the original's mplug_owl/")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has its libraries")
    parser.add_argument("--before", type=checkout, help="a checkout of another commit, whose fp32 steps are taken beside")
    parser.add_argument("--sections", nargs="+", choices=tuple(sections()), help="all of them by default")
    parser.add_argument("--parts", nargs="+", choices=("ours", "limit"), default=("ours", "limit"))
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    main(parser.parse_args())
