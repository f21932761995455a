"""VQA's accuracy, where several people answered each question: correct is what three of them say."""

from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, scored
from mplug_owl.eval.graders.normalised import same

# Three people who agree earn the full score, in every choice of all but one of those asked.
AGREEING = 3
PEOPLE = AGREEING + 1


@dataclass(frozen=True)
class VqaAccuracy:
    """The accuracy of VQA (arXiv 1505.00468): min(1, people who gave this answer / 3), the mean over leaving each person out.

    Answers and people's answers are normalised as in VQA's evaluation. That evaluation takes people's answers as they are
    where all agree; in its own files they are normalised already, and the figures are the same. Where the rules leave nothing
    of a person's answer, such as the letter A of a choice, it is compared as it stands.

    Raises:
        UserError: A question has fewer than four people's answers.
    """

    name: str = "vqa"

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""
        for answer in answers:
            if 0 < (count := len(answer.question.accepted)) < PEOPLE:
                raise UserError(
                    f"vqa: question {answer.question.id} has {count} accepted answer{'s'[: count > 1]}, and this metric counts "
                    f"how many people agree; expected at least {PEOPLE} people's, or --metric normalised, which takes any one"
                )
        return scored(answers, self.name, vqa_accuracy)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """The mean, over leaving each person out, of the share of three others who gave this answer, at most 1."""
    agrees = [same(answer, one) for one in people]
    return sum(min(1.0, (sum(agrees) - one) / AGREEING) for one in agrees) / len(people)
