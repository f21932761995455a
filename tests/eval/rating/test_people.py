"""People grade: everybody's order, what is shown twice and when, and what an undo brings back."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grades_file import key
from mplug_owl.eval.rating.people import Event, Item, Progress, agreement, chosen, item_id, order
from tests.eval.quiz import CONDITIONS, question


def answers(count: int, systems: int = 3) -> list[Answer]:
    return [
        Answer(question(number), CONDITIONS[number % 2], (f"reply {number} {system}",), f"system {system}")
        for number in range(count)
        for system in range(systems)
    ]


SOME = answers(12)


@given(st.integers(0, 40), st.integers(1, 4), st.floats(0, 0.5), st.integers(0, 9))
def test_everything_is_shown_once_and_a_share_of_it_twice_far_apart(count: int, systems: int, repeat: float, seed: int) -> None:
    given = answers(count, systems)
    items = order(given, "anna", seed, repeat)
    first = [item for item in items if item.round == 0]
    assert Counter(key(item.answer) for item in first) == Counter(map(key, given))
    again = [item for item in items if item.round == 1]
    assert len(again) == min(len(given) // 2, round(repeat * len(given)))
    assert len({item.id for item in items}) == len(items)
    for item in again:
        at = next(index for index, other in enumerate(first) if other.answer is item.answer)
        between = [other for other in items[items.index(first[at]) + 1 : items.index(item)] if other.round == 0]
        assert len(between) >= len(given) // 2 - 1


def test_everybody_has_an_order_which_does_not_depend_on_that_of_the_files() -> None:
    anna = order(SOME, "anna", 0, 0.1)
    assert order(SOME[::-1], "anna", 0, 0.1) == anna
    assert [item.answer for item in order(SOME, "ben", 0, 0.1)] != [item.answer for item in anna]
    assert [item.answer for item in order(SOME, "anna", 1, 0.1)] != [item.answer for item in anna]
    assert not {item.id for item in anna} & {item.id for item in order(SOME, "ben", 0, 0.1)}


def test_answers_about_one_picture_come_together_in_no_order_of_systems() -> None:
    items = order(SOME, "anna", 0, 0.0)
    groups = [items[start : start + 3] for start in range(0, len(items), 3)]
    assert all(len({item.answer.question.cluster for item in group}) == 1 for group in groups)
    assert len({tuple(item.answer.model for item in group) for group in groups}) > 3


def test_an_id_says_nothing_about_the_answer() -> None:
    one = item_id(SOME[0], "anna", 0, 0)
    assert len(one) == 20
    assert SOME[0].digest not in one
    assert len({one, item_id(SOME[0], "anna", 0, 1), item_id(SOME[0], "anna", 1, 0), item_id(SOME[1], "anna", 0, 0)}) == 4


def test_a_limit_chooses_the_same_for_everybody_and_all_systems_of_a_question() -> None:
    few = chosen(SOME, 6, 0)
    assert few == chosen(SOME[::-1], 6, 0)
    assert len(few) == 6
    assert set(Counter(answer.question.id for answer in few).values()) == {3}
    assert len(chosen(SOME, 7, 0)) == 7
    assert sorted(map(key, chosen(SOME, None, 0))) == sorted(map(key, SOME))
    assert {answer.question.id for answer in chosen(SOME, 6, 1)} != {answer.question.id for answer in few}


def started(items: tuple[Item, ...], *letters: str | None) -> Progress:
    progress = Progress("anna", items)
    for letter in letters:
        assert progress.current is not None
        progress.events.append(Event(progress.current, letter))
    return progress


def test_what_is_skipped_comes_last_and_never_twice() -> None:
    items = order(SOME, "anna", 0, 0.5)
    repeated = next(item for item in items if item.round == 1)
    at = next(index for index, item in enumerate(items) if item.answer is repeated.answer)
    progress = started(items, *["A"] * at, None)
    assert progress.waiting[-1] == items[at]
    assert repeated not in progress.waiting
    assert len(progress.waiting) == len(items) - at - 1
    progress.take_back()
    assert repeated in progress.waiting
    assert progress.current == items[at]


def test_skipping_everything_comes_round_again() -> None:
    items = order(SOME[:3], "anna", 0, 0.0)
    progress = started(items, None, None, None)
    assert progress.waiting == list(items)
    assert started(items, None, "A", None, None).waiting == [items[2], items[0]]


def test_undo_goes_back_to_the_grade_before() -> None:
    items = order(SOME, "anna", 0, 0.0)
    progress = started(items, "A", "B")
    progress.events.append(Event(items[0], "D"))
    assert progress.graded[items[0].id] == "D"
    undone = progress.take_back()
    assert undone == (Event(items[0], "D"), "A")
    assert (progress.graded[items[0].id], progress.current) == ("A", items[2])
    assert [progress.take_back()[1], progress.take_back()[1], progress.take_back()] == [None, None, None]
    assert progress.current == items[0]


@pytest.mark.parametrize(("pairs", "expected"), [([], (0, 0)), ([("A", "A"), ("A", "B"), (None, "A"), ("C", None)], (1, 2))])
def test_agreement_counts_pairs_that_have_both(pairs: list, expected: tuple[int, int]) -> None:
    assert agreement(pairs) == expected
