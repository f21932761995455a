"""How fast the drawn world is drawn and asked about, and how soon owl-tiny answers: one core, no other work beside it.

OMP_NUM_THREADS=1 python -m benchmarks.scenes [--scenes 3000] [--answers 50]
"""

import argparse
import statistics
import time
from random import Random

import torch

from benchmarks.command import count, machine
from mplug_owl.chat import Decoding, OwlChatModel, load
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.scenes import exam, scenes
from mplug_owl.scenes.abilities import ABILITIES, talk


def drawn_per_second(count: int) -> float:
    """Scenes a second of CPU time, each made from its seed, drawn, and asked about once."""
    for shown in scenes(300, seed=1):  # outlines and letters are drawn once and kept
        shown.draw()
    began = time.process_time()
    for shown in scenes(count, seed=2):
        shown.draw()
        talk(shown, 1, Random(shown.seed))
    return count / (time.process_time() - began)


def answer_times(count: int) -> tuple[list[float], list[float]]:
    """Seconds to the first word and to the last, of `count` answers about pictures, the model loaded and warm."""
    model, first, whole = OwlChatModel(load("owl-tiny", dtype="float32")), [], []
    each = -(-(count + 3) // len(ABILITIES))
    items = exam(each, "seen", 3)  # ability by ability; here they take turns, so that a few questions are of all
    for number in range(count + 3):
        item = items[number % len(ABILITIES) * each + number // len(ABILITIES)]
        asked = Conversation(()).said("user", Picture(item.scene.draw()), item.turns[0][0])
        began = time.perf_counter()
        words = model.stream(asked, Decoding())
        next(words, "")
        seen = time.perf_counter() - began
        list(words)
        if number >= 3:
            first.append(seen)
            whole.append(time.perf_counter() - began)
    return first, whole


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=count, default=3000)
    parser.add_argument("--answers", type=count, default=50)
    asked = parser.parse_args()
    print(f"{machine()}; one thread")
    print(f"{drawn_per_second(asked.scenes):,.0f} scenes a second, each drawn and asked about")
    torch.set_num_threads(1)
    first, whole = answer_times(asked.answers)
    print(f"first word after {statistics.median(first):.3f} s, at worst {max(first):.3f}")
    print(f"whole answer after {statistics.median(whole):.3f} s, at worst {max(whole):.3f}")


if __name__ == "__main__":
    main()
