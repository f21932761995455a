"""VQA's accuracy: figures from its paper's rule worked out by hand, and the rule written another way."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.errors import UserError
from mplug_owl.eval.graders.vqa import VqaAccuracy, vqa_accuracy
from tests.eval.graders.answered import answered


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    # With k of ten people: (k min(1, (k-1)/3) + (10-k) min(1, k/3)) / 10, the figures known from VQA: 0.3, 0.6, 0.9, 1.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_people(agreeing: int, accuracy: float) -> None:
    people = ["Yes."] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy("yes", people) == pytest.approx(accuracy)


@given(some.sampled_from(["2", "Two", "red", ""]), some.lists(some.sampled_from(["2", "two", "red", "a red"]), min_size=4))
def test_it_is_the_mean_over_all_choices_of_all_but_one(answer: str, people: list[str]) -> None:
    plain = {"Two": "2", "two": "2", "a red": "red"}
    votes = [plain.get(one, one) == plain.get(answer, answer) for one in people]
    each = [min(1, sum(chosen) / 3) for chosen in combinations(votes, len(votes) - 1)]
    assert vqa_accuracy(answer, people) == pytest.approx(sum(each) / len(each), abs=1e-12)


def test_an_answer_of_an_article_is_compared_as_it_stands() -> None:
    """The rules leave nothing of the letter A of a choice: no answer at all would have the full score."""
    assert [vqa_accuracy(answer, ["A"] * 10) for answer in ("", "the", "a.", "A")] == [0, 0, 1, 1]


def test_the_target_is_one_of_the_people() -> None:
    (grade,) = VqaAccuracy().grades([answered("red", "red", "red", "blue", "green", "grey")])
    assert grade.score == pytest.approx((2 * 1 / 3 + 3 * 2 / 3) / 5)
    assert not grade.correct


def test_fewer_than_four_people_are_refused_by_the_question() -> None:
    with pytest.raises(UserError, match=r"question q0 has 2 accepted answers, .* --metric normalised"):
        VqaAccuracy().grades([answered("red", "red", "blue")])
    assert VqaAccuracy().grades([answered("red")])[0].score is None
