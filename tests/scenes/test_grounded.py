"""What of an answer counts as grounded."""

import pytest

from mplug_owl.scenes.grounded import Named, is_grounded, named
from mplug_owl.scenes.things import Thing
from mplug_owl.scenes.world import Scene

SHOWN = Scene((Thing("circle", "red", "small", 0, 0), Thing("star", "blue", "large", 1, 1)), (), 0)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("A small red circle, matey!", [Named("red", "circle")]),
        ("Two Red large circles and crosses", [Named("red", "circle"), Named(None, "cross")]),
        ('{"colour": "blue"}', [Named("blue", None)]),
        ("a redcircle, bluer than starlight", []),
        ("red-circle; a blue sky", [Named("red", "circle"), Named("blue", None)]),
    ],
)
def test_things_are_found_in_an_answer(answer: str, found: list[Named]) -> None:
    assert named(answer) == found


@pytest.mark.parametrize(
    ("answer", "grounded"),
    [
        ("Arr, a red circle and a blue star!", True),
        ("Red and blue it is.", True),
        ("A blue circle.", False),
        ("A red circle beside a heart.", False),
        ("A fine picture.", False),
    ],
)
def test_grounded_answers_name_something_and_nothing_that_is_not_there(answer: str, grounded: bool) -> None:
    assert is_grounded(answer, SHOWN) == grounded
