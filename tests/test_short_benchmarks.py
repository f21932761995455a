"""`make bench`: every line is a command that is there, and what it says of a figure is right."""

import importlib.util

import pytest

from benchmarks.short import SHORT, Short


def test_every_short_benchmark_is_there() -> None:
    assert all(importlib.util.find_spec(short.command[0]) is not None for short in SHORT)


def test_a_line_says_whether_the_bar_was_reached() -> None:
    cost = Short("a step, s", ("benchmarks.none",), r"^step: ([\d.,]+)", 2.0)
    speed = Short("steps a second", ("benchmarks.none",), r"^step: ([\d.,]+)", 1000, at_most=False)
    assert cost.line("machine\nstep: 1.5 s (bar 2)") == "a step, s: 1.5, at most 2: reached"
    assert cost.line("step: 2.5 s") == "a step, s: 2.5, at most 2: missed"
    assert speed.line("step: 1,200 s") == "steps a second: 1200, at least 1000: reached"
    with pytest.raises(ValueError, match="no figure"):
        cost.line("nothing")
