"""Normalised words: each rule of VQA's evaluation, worked out by hand from its code; and what is correct by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.eval.graders.normalised import CONTRACTIONS, Contains, NormalisedMatch, contains, normalised
from tests.eval.graders.answered import answered


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Red", "red"),
        ("A red, round ball.", "red round ball"),
        ("the", ""),
        ("Theatre", "theatre"),  # an article is a word, not how one begins
        ("two", "2"),
        ("None", "0"),
        ("twenty", "twenty"),
        ("black-and-white", "black and white"),  # a mark between letters is a space
        ("black - white", "black white"),  # one beside a space is left out
        ("white-blue -red", "whiteblue red"),  # and then everywhere in the answer
        ("1,000 dogs", "1000 dogs"),
        ("1,000 black-white dogs", "1000 blackwhite dogs"),  # as it does for a comma between digits
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("3:30", "3:30"),  # neither colons nor apostrophes are among its marks
        ("it's", "it's"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("yes!", "yes"),
        ("line\nbreak\tand tab ", "line break and tab"),
        ("", ""),
    ],
)
def test_each_rule(words: str, expected: str) -> None:
    assert normalised(words) == expected


def test_the_contractions_are_those_of_the_evaluation() -> None:
    """120 entries there, of which "Im" and three more can't be found in lower case, and two say what they are given."""
    assert len(CONTRACTIONS) == 120 - 4 - 2
    assert {CONTRACTIONS[one] for one in ("yall'd've", "y'alld've", "y'all'dve")} == {"y'all'd've"}
    assert not {"well", "ill", "id", "im", "lets", "shes"} & CONTRACTIONS.keys()


@given(some.text(max_size=40))
def test_space_and_case_never_count(words: str) -> None:
    plain = words.encode("ascii", "ignore").decode()
    assert normalised(f"  {plain}\n") == normalised(plain)
    assert normalised(plain.upper()) == normalised(plain.lower())


@pytest.mark.parametrize(("answer", "correct"), [("The red one.", True), ("Red 1", True), ("a blue", True), ("red", False)])
def test_any_accepted_answer_will_do(answer: str, correct: bool) -> None:
    (grade,) = NormalisedMatch().grades([answered(answer, "red one", "Blue!")])
    assert (grade.score, grade.correct, grade.grader) == (correct, correct, "normalised")


@pytest.mark.parametrize(
    ("answer", "accepted", "correct"),
    [
        ("A", "A", True),
        ("a.", "A", True),
        ("(A)", "A", True),
        ("The", "A", False),
        ("", "A", False),
        ("?", "A", False),
        ("B", "A", False),
        ("A", "B", False),
        ("!", "?", False),
        ("?", "?", True),
    ],
)
def test_the_letter_of_a_choice_is_no_article(answer: str, accepted: str, correct: bool) -> None:
    """VQA's rules leave nothing of A: whatever they leave nothing of would be correct, an empty answer too."""
    assert NormalisedMatch().grades([answered(answer, accepted)])[0].correct is correct


@pytest.mark.parametrize(
    ("answer", "accepted", "found"),
    [
        ("It is a red bus.", "Red bus", True),
        ("There are two.", "2", True),
        ("bored people", "red", False),  # words, not letters
        ("red and bus", "red bus", False),  # one after another
        ("", "red", False),
        ("anything", "the", False),  # nothing is left of it: it would be in every answer
        ("A", "A", True),
        ("A dog", "A", False),
    ],
)
def test_an_answer_may_say_more(answer: str, accepted: str, found: bool) -> None:
    assert contains(answer, accepted) is found
    assert Contains().grades([answered(answer, accepted)])[0].correct is found


def test_without_an_accepted_answer_there_is_no_score() -> None:
    for grader in (NormalisedMatch(), Contains()):
        (grade,) = grader.grades([answered("red")])
        assert grade.score is None
