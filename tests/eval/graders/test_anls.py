"""ANLS against figures worked out by hand, and edits against their definition."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mplug_owl.eval.graders.anls import Anls, anls, levenshtein, similarity
from tests.eval.graders.answered import answered


@pytest.mark.parametrize(
    ("answer", "accepted", "score"),
    [
        ("STOP", ["stop"], 1.0),
        ("st0p", ["stop"], 0.75),
        (" stop\n sign ", ["Stop sign"], 1.0),
        ("coca cola", ["coca-cola", "pepsi"], 1 - 1 / 9),  # the nearest one counts
        ("pepsi", ["coca-cola", "pepsi"], 1.0),
        ("ab", ["ax"], 0.5),  # the official script keeps one half
        ("abc", ["axy"], 0.0),  # a third is below it
        ("stop", ["stop right there"], 0.0),
        ("", ["stop"], 0.0),
        ("stop", ["go"], 0.0),
    ],
)
def test_worked_out_by_hand(answer: str, accepted: list[str], score: float) -> None:
    assert anls(answer, accepted) == pytest.approx(score)
    assert Anls().grades([answered(answer, *accepted)])[0].score == pytest.approx(score)


words = some.text("abc ", max_size=7)


@given(words, words)
def test_edits_are_the_fewest_there_are(one: str, other: str) -> None:
    @cache
    def fewest(left: int, right: int) -> int:
        if not left or not right:
            return left + right
        changed = fewest(left - 1, right - 1) + (one[left - 1] != other[right - 1])
        return min(changed, fewest(left - 1, right) + 1, fewest(left, right - 1) + 1)

    assert levenshtein(one, other) == fewest(len(one), len(other))


@given(some.text("ab", max_size=12), some.text("ab", max_size=12))
def test_what_is_not_counted_is_below_the_threshold(one: str, other: str) -> None:
    longer = max(len(one), len(other), 1)
    exact = 1 - levenshtein(one, other) / longer
    assert similarity(one, other) == pytest.approx(exact) or (similarity(one, other) == 0.0 and exact < 0.5)
    assert similarity(one, other) == similarity(other, one)
