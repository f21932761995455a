"""The benchmark of the drawn world, at a small size: it measures, and the world is drawn fast."""

from benchmarks.scenes import answer_times, drawn_per_second


def test_scenes_are_drawn_by_the_thousand() -> None:
    """The bar is 3,000 a second on a core of its own; CPU time counts here, so others may share it."""
    assert drawn_per_second(300) > 1000


def test_answers_are_timed_from_first_word_to_last() -> None:
    first, whole = answer_times(3)
    assert len(first) == len(whole) == 3
    assert all(0 < one <= other for one, other in zip(first, whole, strict=True))
