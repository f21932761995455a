"""The exam of the drawn world: six abilities, asked about scenes, colour-shape pairs and words that training never had."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mplug_owl.eval.grade import Grader
from mplug_owl.eval.graders.exact import ExactMatch
from mplug_owl.eval.task import Condition, Question
from mplug_owl.scenes import exam

COUNT = 200
WORLD, WORDS = "scenes never seen", "written words never trained"


@dataclass(frozen=True)
class DrawnWorld:
    """Each ability of OwlEval (arXiv 2304.14178, section 4.1), asked where one answer alone is correct."""

    name: str = "scenes"
    conditions: Sequence[Condition] = (
        Condition("seen", "picture", "with the picture", WORLD),
        Condition("seen", "none", "without", WORLD),
        Condition("seen", "description", "told in words", WORLD),
        Condition("combinations", "picture", "unseen combinations", WORLD),
        Condition("words", "picture", "with the picture", WORDS),
        Condition("words", "none", "without", WORDS),
    )
    grader: Grader = field(default_factory=ExactMatch)

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        """`count` items an ability of this split as questions, 200 where None."""
        return [
            Question(f"{split}-{seed}-{number}", item.ability, item.kind, item.turns, item.scene.draw, item.scene.description)
            for number, item in enumerate(exam(COUNT if count is None else count, split, seed))
        ]
