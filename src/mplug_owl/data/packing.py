"""Packing: conversations end to end in one row, so that no position is spent on padding.

Positions restart with every conversation. transformers reads the restarts and lets none of them attend to another.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which examples share a row of at most `room` positions: the longest first, each into the fullest row that has the room.

    Rows hold their examples in the order given, and come in the order of their first ones. An example longer than `room` gets a
    row of its own.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # positions left and which row, in order: a step of 2.1 M tokens has 23,000 examples
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        at = bisect_left(free, (lengths[index], 0))
        if at < len(free):
            left, row = free.pop(at)
            rows[row].append(index)
        else:
            left, row = room, len(rows)
            rows.append([index])
        insort(free, (left - lengths[index], row))
    return sorted((sorted(row) for row in rows), key=lambda row: row[0])


def positions(lengths: Sequence[int]) -> list[int]:
    """Positions of a packed row: 0, 1, 2, ... anew for every example."""
    return [position for length in lengths for position in range(length)]
