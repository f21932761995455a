"""How long 64 words take, by what the weights are kept in: fp32, bf16, bf16 laid out for oneDNN, int8.

An owl of 263 M parameters (benchmarks/baseline.py) with random weights continues prompts about one picture each, whose features
are there already; one thread. All ways in one process, in turn; CPU seconds, the quickest of several and the median. With
`--against` the fp32 of another checkout takes its turn too, in a process of its own: it chooses words as it did then.

    python -m benchmarks.words [--repeats 5] [--rows 1 4] [--ways fp32 int8 ...] [--against CHECKOUT]
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import GenerationConfig

from benchmarks.against import Elsewhere
from benchmarks.baseline import owl_263m
from benchmarks.command import checkout, count, machine
from mplug_owl.chat.decode import Prompt, decode
from mplug_owl.conversation import Picture
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.small_weights import pack, to_int8

WORDS = 64
PROMPT = 40
# Of the time of fp32 as it was when the bars were set, commit 21a7d6c (issue 12).
BARS = {"bf16 packed": 0.6, "int8": 0.5}
BEFORE = "fp32 before"


def plain() -> MplugOwlForConditionalGeneration:
    """The owl in fp32, the same random weights always."""
    torch.manual_seed(0)
    return MplugOwlForConditionalGeneration(owl_263m()).eval()


def packed(model: MplugOwlForConditionalGeneration) -> MplugOwlForConditionalGeneration:
    """A bf16 model, its weights laid out."""
    pack(model)
    return model


def int8(model: MplugOwlForConditionalGeneration) -> MplugOwlForConditionalGeneration:
    """An fp32 model with int8 weights."""
    to_int8(model)
    return model


def sentence(model: MplugOwlForConditionalGeneration, rows: int) -> float:
    """CPU seconds for so many rows of 64 words each."""
    config = GenerationConfig(max_new_tokens=WORDS, do_sample=False, eos_token_id=None, pad_token_id=0)
    count, width = model.num_image_tokens, model.config.text_config.hidden_size
    shown = Picture("nowhere.png")

    def look(pictures: Sequence[Picture]) -> Tensor:
        return torch.zeros(len(pictures), count, width, dtype=next(model.model.abstractor.parameters()).dtype)

    ids = [1, *[model.config.image_token_id] * count, *range(3, 3 + PROMPT)]
    begin = time.process_time()
    found = list(decode(model, [Prompt(ids, (shown,))] * rows, look, config, lambda ids: False, rows))
    if [len(row) for _, row in found] != [WORDS] * rows:
        raise ValueError("an answer of another length than was asked for")
    return time.process_time() - begin


WAYS: dict[str, Callable[[MplugOwlForConditionalGeneration], MplugOwlForConditionalGeneration]] = {
    "fp32": lambda model: model,
    "bf16": lambda model: copy.deepcopy(model).bfloat16(),
    "bf16 packed": lambda model: packed(copy.deepcopy(model).bfloat16()),
    "int8": lambda model: int8(copy.deepcopy(model)),
}


def compare(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds by way, in turn; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            seconds = way()
            taken[name] += [seconds] if repeat else []
    return taken


def lines(rows: int, taken: Mapping[str, Sequence[float]]) -> list[str]:
    """What is said of each way: its seconds, and its share of each fp32 that took its turn, the median of pairs."""
    told = []
    for name, seconds in taken.items():
        shares = [
            f"{statistics.median(one / other for one, other in zip(seconds, taken[base], strict=True)):.2f} of {base}"
            for base in ("fp32", BEFORE)
            if base in taken and base != name
        ]
        bar = [f"bar {BARS[name]}"] if name in BARS else []
        figures = f"{min(seconds):.2f} s at best, {statistics.median(seconds):.2f} median"
        told.append(f"{rows} x {WORDS} words, {name}: " + ", ".join([figures, *shares, *bar]))
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--rows", type=count, nargs="+", default=[1, 4])
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--against", type=checkout, metavar="CHECKOUT", help="a checkout of another commit")
    given = parser.parse_args()
    torch.set_num_threads(1)
    owl = plain()
    models = {name: WAYS[name](owl) for name in given.ways}
    print(machine(), flush=True)
    for rows in given.rows:
        ways: dict[str, Callable[[], float]] = {
            name: lambda model=model, rows=rows: sentence(model, rows) for name, model in models.items()
        }
        with ExitStack() as stack:
            if given.against is not None:
                task = {"rows": rows, "words": WORDS, "prompt": PROMPT}
                before = stack.enter_context(Elsewhere("before.py", sys.executable, task, given.against))
                ways[BEFORE] = lambda before=before: before().cpu
            print("\n".join(lines(rows, compare(ways, given.repeats))), flush=True)


if __name__ == "__main__":
    main()
