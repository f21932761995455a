"""How soon the second question about a picture is answered, beside the first: what was computed before is kept.

An owl of 263 M parameters (benchmarks/baseline.py) with random weights is asked twice about one picture, as `owl chat` asks.
Its head knows small letters alone, so that every token is a word to show. The model is loaded and warm; one thread.

    python -m benchmarks.chat [--repeats 5]
"""

import argparse
import statistics
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from benchmarks.baseline import owl_263m
from benchmarks.command import count, machine
from mplug_owl.chat import Chat, Decoding
from mplug_owl.conversation import SYSTEM_PROMPT
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.fresh import learn_tokenizer
from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.model.load import Owl
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.towers import image_size
from mplug_owl.scenes import scene

QUESTIONS = ("What is in the picture?", "What colour is the largest thing in it?")
BAR = 0.3


@dataclass(frozen=True)
class Wait:
    """Seconds until the first word of an answer."""

    wall: float
    cpu: float


def letter_owl(config: MplugOwlConfig) -> Owl:
    """An owl of this size that answers in small letters, whichever its random weights find likeliest."""
    torch.manual_seed(0)
    model = MplugOwlForConditionalGeneration(config).eval()
    tokenizer = learn_tokenizer([SYSTEM_PROMPT, *QUESTIONS], min(300, config.text_config.vocab_size))
    letters = set(tokenizer.convert_tokens_to_ids(list(string.ascii_lowercase)))
    others = [row for row in range(model.lm_head.out_features) if row not in letters]
    with torch.no_grad():
        model.lm_head.weight[others] = 0
    images = MplugOwlImageProcessor(size=image_size(config.vision_config))
    # Made by hand: for_model refuses a tokenizer of 300 entries beside a vocabulary of 32,000.
    return Owl(model, MplugOwlProcessor(images, tokenizer, model.num_image_tokens, config.image_token_id))


def waits(owl: Owl, seed: int) -> Iterator[Wait]:
    """A new conversation about a new picture: how long each of its questions waits for a first word."""
    chat, picture = Chat(owl, decoding=Decoding(max_new_tokens=8)), scene(seed).draw(224)
    for question in QUESTIONS:
        wall, cpu = time.perf_counter(), time.process_time()
        words = chat.stream(question, [picture] if question is QUESTIONS[0] else [])
        next(words)
        yield Wait(time.perf_counter() - wall, time.process_time() - cpu)
        list(words)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=count, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{machine()}; one thread", flush=True)
    owl = letter_owl(owl_263m())
    list(waits(owl, 0))
    pairs = [tuple(waits(owl, seed)) for seed in range(1, repeats + 1)]
    for name in ("wall", "cpu"):
        first, second = (statistics.median(getattr(pair[turn], name) for pair in pairs) for turn in (0, 1))
        print(f"{name}: first question {first:.3f} s, second {second:.3f} s, share {second / first:.2f} (bar {BAR})")


if __name__ == "__main__":
    main()
