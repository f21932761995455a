"""Who grades answers, by name."""

from collections.abc import Sequence
from statistics import median

from mplug_owl.errors import UserError
from mplug_owl.eval.grade import Grader
from mplug_owl.eval.graders.anls import Anls
from mplug_owl.eval.graders.cider import Cider
from mplug_owl.eval.graders.exact import ExactMatch
from mplug_owl.eval.graders.normalised import Contains, NormalisedMatch
from mplug_owl.eval.graders.vqa import PEOPLE, VqaAccuracy
from mplug_owl.eval.task import Question

METRICS: dict[str, Grader] = {
    "exact": ExactMatch(),
    "normalised": NormalisedMatch(),
    "contains": Contains(),
    "vqa": VqaAccuracy(),
    "anls": Anls(),
    "cider": Cider(),
}
# Longer accepted answers are sentences, which two people rarely word alike.
SENTENCE = 6


def find(name: str) -> Grader:
    """The metric of this name. Raises UserError that lists those there are."""
    if name == "judge":
        raise UserError("a judge grades what was answered: owl eval without --metric judge, then owl judge JUDGE FOLDER")
    if name not in METRICS:
        raise UserError(f"no metric {name!r}; there is {', '.join(METRICS)}, and owl judge")
    return METRICS[name]


def default(questions: Sequence[Question]) -> tuple[str, str]:
    """The name of the metric that fits these questions, and why, as it would follow "because"."""
    if all(not question.text for question in questions):
        return "cider", "pictures are shown without a question, so the answers are captions"
    fewest = min(len(question.accepted) for question in questions)
    if fewest >= PEOPLE:
        return "vqa", f"each question has {fewest} or more people's answers"
    words = median(len(question.target.split()) for question in questions)
    if words > SENTENCE:
        return "normalised", (
            f"each question has its answer; but half of them have {words:.0f} words or more, which few will match: "
            "a judge can grade them, owl judge"
        )
    return "normalised", "an answer that has the words of an accepted one is correct"
