"""Packing: no padding, nothing lost, nothing cut."""

from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.packing import pack, positions

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


@given(LENGTHS, st.integers(1, 80))
def test_every_example_is_in_one_row_and_rows_have_room(lengths: list[int], room: int) -> None:
    rows = pack(lengths, room)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= room or len(row) == 1 for row in rows)
    assert all(row == sorted(row) for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


@given(LENGTHS)
def test_rows_are_nearly_full(lengths: list[int]) -> None:
    """All but one are more than half full: two that are not would have shared."""
    rows = pack(lengths, 60)
    assert sum(sum(lengths[index] for index in row) <= 30 for row in rows) <= 1


def test_the_longest_come_first_each_where_it_fits_best() -> None:
    assert pack([3, 7, 5, 5, 2], 10) == [[0, 1], [2, 3], [4]]
    assert pack([12, 3], 10) == [[0], [1]]
    assert pack([], 10) == []


def test_positions_restart() -> None:
    assert positions([3, 1, 2]) == [0, 1, 2, 0, 0, 1]
