"""How long 64 words take, by what the weights are kept in: fp32, bf16, bf16 laid out for oneDNN, int8.

An owl of 263 M parameters (benchmarks/baseline.py) with random weights continues prompts about one picture each, whose features
are there already; one thread. All ways in one process, in turn; CPU seconds, the quickest of several and the median.

    python -m benchmarks.words [--repeats 5] [--rows 1 4]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig

from benchmarks.baseline import owl_263m
from benchmarks.exam import machine
from mplug_owl.chat.decode import Prompt, decode
from mplug_owl.conversation import Picture
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.small_weights import pack, to_int8

WORDS = 64
PROMPT = 40
# Of fp32's time (issue 12).
BARS = {"bf16 packed": 0.6, "int8": 0.5}


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
    assert [len(row) for _, row in found] == [WORDS] * rows
    return time.process_time() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = MplugOwlForConditionalGeneration(owl_263m()).eval()
    ways: dict[str, Callable[[], MplugOwlForConditionalGeneration]] = {
        "fp32": lambda: plain,
        "bf16": lambda: copy.deepcopy(plain).bfloat16(),
        "bf16 packed": lambda: packed(copy.deepcopy(plain).bfloat16()),
        "int8": lambda: int8(copy.deepcopy(plain)),
    }
    models = {name: make() for name, make in ways.items()}
    print(machine())
    for rows in given.rows:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for repeat in range(given.repeats + 1):
            for name, model in models.items():
                taken[name] += [sentence(model, rows)] if repeat else []
                if not repeat:
                    sentence(model, rows)
        for name, seconds in taken.items():
            pairs = statistics.median(one / other for one, other in zip(seconds, taken["fp32"], strict=True))
            bar = f" (bar {BARS[name]})" if name in BARS else ""
            print(
                f"{rows} x {WORDS} words, {name}: {min(seconds):.2f} s at best, {statistics.median(seconds):.2f} median, "
                f"{pairs:.2f} of fp32{bar}"
            )


if __name__ == "__main__":
    main()
