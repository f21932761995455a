"""Metrics by name, and the one that fits the data."""

import pytest

from mplug_owl.errors import UserError
from mplug_owl.eval import graders
from mplug_owl.eval.task import Question
from tests.eval.graders.answered import answered


def question(*accepted: str, words: str = "What?") -> Question:
    return answered("", *accepted, words=words).question


def test_each_is_found_by_its_name_and_writes_it_into_its_grades() -> None:
    for name in ("exact", "normalised", "contains", "anls"):
        (grade,) = graders.find(name).grades([answered("red", "blue", "red")])
        assert (grade.grader, grade.score) == (name, 1)
    assert list(graders.METRICS) == ["exact", "normalised", "contains", "vqa", "anls", "cider"]
    with pytest.raises(UserError, match="no metric 'bleu'; there is exact, normalised"):
        graders.find("bleu")
    with pytest.raises(UserError, match="owl judge JUDGE FOLDER"):
        graders.find("judge")


@pytest.mark.parametrize(
    ("questions", "name", "reason"),
    [
        ([question("A red bus.", words="")], "cider", "captions"),
        ([question("yes"), question("a big dog")], "normalised", "accepted"),
        ([question("yes", "yeah")], "normalised", "accepted"),
        ([question("yes", "yes", "no", "yes"), question(*["2"] * 10)], "vqa", "4 or more people"),
        ([question(*["2"] * 10), question("yes", "no")], "normalised", "accepted"),
        ([question("The picture shows a wide street in the rain.")], "normalised", "a judge"),
    ],
)
def test_the_one_that_fits(questions: list[Question], name: str, reason: str) -> None:
    chosen, why = graders.default(questions)
    assert chosen == name
    assert reason in why
