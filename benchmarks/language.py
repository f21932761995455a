"""Whether stage 2 spoils the language: the same questions about descriptions, to tiny-language alone and to owl-tiny.

python -m benchmarks.language [--count 200]

Both answer `count` questions an ability about scenes that no training had, described in words instead of shown, with colours
and shapes that stood together in training and with those that never did. Alone, the language model stands in an owl whose eyes
learned nothing and see nothing.
"""

import argparse

from rich.console import Console

from mplug_owl.chat import OwlChatModel, load
from mplug_owl.eval.grade import Grade, evaluate
from mplug_owl.eval.report import show
from mplug_owl.eval.task import Condition
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.model.build import build
from mplug_owl.model.load import Owl
from mplug_owl.recipes import tiny

TOLD = "told in words"
CONDITIONS = (
    Condition("seen", "description", "told together", TOLD),
    Condition("combinations", "description", "never told together", TOLD),
)


def owls() -> dict[str, Owl]:
    """The language model alone, and with what it became."""
    alone = build(tiny.OWL_TINY, [], 0)
    alone.model.eval()
    return {"tiny-language": alone, "owl-tiny": load("owl-tiny", dtype="float32")}


def grades(owl: Owl, count: int, seed: int) -> list[Grade]:
    """Its graded answers in both conditions."""
    return evaluate(OwlChatModel(owl), DrawnWorld(), count, seed, CONDITIONS)


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="questions an ability")
    parser.add_argument("--seed", type=int, default=0, help="0 asks what `owl eval owl-tiny scenes` asks")
    asked = parser.parse_args()
    console = Console(highlight=False)
    for name, owl in owls().items():
        console.print(name)
        show(grades(owl, asked.count, asked.seed), console)


if __name__ == "__main__":
    main()
