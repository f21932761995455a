"""CIDEr: pycocoevalcap's own figures for the same tokens, its definition in small, and what cannot be scored."""

import sys

import pytest

from mplug_owl.errors import UserError
from mplug_owl.eval.graders.cider import Cider, cider, tokens
from tests.eval.graders.answered import answered

REFERENCES = [
    ["A red bus on a street.", "The bus is red."],
    ["Two dogs play in the snow."],
    ["A man's hat, black and white.", "A hat"],
]
CAPTIONS = ["a red bus", "two cats play in the snow", ""]


def test_it_is_pycocoevalcaps_figure_for_these_tokens() -> None:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    known = {index: [tokens(one) for one in here] for index, here in enumerate(REFERENCES)}
    mean, scores = scorer.compute_score(known, {index: [tokens(one)] for index, one in enumerate(CAPTIONS)})
    found = cider(CAPTIONS, REFERENCES)
    assert found == pytest.approx(list(scores), abs=1e-12)
    assert sum(found) / 3 == pytest.approx(mean)
    assert min(found[:2]) > 1 > found[2] == 0


def test_a_caption_that_is_its_only_reference_scores_ten_by_definition() -> None:
    """CIDEr-D: ten times the mean of four cosines, each 1 here. Of three words there are no four in a row: 3/4 of it."""
    pytest.importorskip("pycocoevalcap")
    assert cider(["a b c d", "e f g"], [["a b c d"], ["e f g"]]) == pytest.approx([10.0, 7.5])


def test_words_that_every_picture_has_weigh_nothing() -> None:
    pytest.importorskip("pycocoevalcap")
    assert cider(["picture", "picture"], [["picture one"], ["picture two"]]) == pytest.approx([0.0, 0.0])


def test_captions_of_one_picture_are_one_set_of_references() -> None:
    """COCO has a record for each caption; a picture is asked once and has all of them."""
    pytest.importorskip("pycocoevalcap")
    apart = [answered("a red bus", "A red bus on a street.", image="bus", words="", number=1)]
    apart += [answered("a red bus", "The bus is red.", image="bus", words="", number=2)]
    apart += [answered("two cats", "Two dogs play in the snow.", image="dogs", words="", number=3)]
    grades = Cider().grades(apart)
    assert [grade.score for grade in grades] == pytest.approx(
        [score for score in cider(["a red bus", "two cats"], REFERENCES[:2]) for _ in range(2)][:3]
    )
    assert {grade.grader for grade in grades} == {"cider"}


def test_one_picture_alone_has_no_score() -> None:
    pytest.importorskip("pycocoevalcap")
    assert [grade.score for grade in Cider().grades([answered("a bus", "a bus", image="bus")])] == [None]
    assert cider(["a", "b", "c"], [["a"], ["!!"], ["c"]])[1] is None


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man's hat.", "a man 's hat"),
        ("Black-and-white, 3.5 metres!", "black-and-white 3.5 metres"),
        ("Don't (stop)", "don 't stop"),
        ("Grün; größer", "grün größer"),
        ("...", ""),
    ],
)
def test_tokens(caption: str, expected: str) -> None:
    assert tokens(caption) == expected


def test_a_missing_package_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(UserError, match=r"pip install 'mplug-owl\[eval\]'"):
        cider(CAPTIONS, REFERENCES)
