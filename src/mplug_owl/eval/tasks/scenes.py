"""The exam of the drawn world: six abilities, asked about scenes, colour-shape pairs and words that training never had."""

from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.eval.task import Problem, Sitting
from mplug_owl.scenes import exam

WORLD, WORDS = "scenes never seen", "written words never trained"


@dataclass(frozen=True)
class DrawnWorld:
    """Each ability of OwlEval (arXiv 2304.14178, section 4.1), asked where one answer alone is right."""

    name: str = "scenes"
    sittings: Sequence[Sitting] = (
        Sitting("seen", "picture", "with the picture", WORLD),
        Sitting("seen", "none", "without", WORLD),
        Sitting("seen", "told", "told in words", WORLD),
        Sitting("combinations", "picture", "unseen combinations", WORLD),
        Sitting("words", "picture", "with the picture", WORDS),
        Sitting("words", "none", "without", WORDS),
    )

    def problems(self, split: str, count: int, seed: int) -> list[Problem]:
        """`count` items an ability of this split, as problems."""
        return [
            Problem(item.ability, item.kind, item.turns, item.scene.draw, item.scene.told) for item in exam(count, split, seed)
        ]

    def correct(self, problem: Problem, said: str) -> bool:
        """Word for word and letter for letter, but for space around it and one full stop at its end."""
        return _bare(said) == _bare(problem.right)


def _bare(sentence: str) -> str:
    return sentence.strip().removesuffix(".")
