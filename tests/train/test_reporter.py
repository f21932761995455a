"""What a run says on a terminal and elsewhere."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.train.reporter import Progress, Screen
from mplug_owl.train.trainable import Part

PARTS = [Part("vision", "f_V", "frozen", 1000, 0), Part("abstractor", "f_K", "full", 200, 200)]


def told(screen: Screen) -> str:
    screen.start("lesson", PARTS)
    for step in (1, 2):
        screen.progress(Progress(step, 2, 4.5 / step, 1e-3, 1234.5, 70.0))
    screen.note("data [v2] is odd")
    screen.close()
    return screen.console.file.getvalue()


def test_in_a_file_each_line_of_metrics_is_a_line() -> None:
    lines = told(Screen(Console(file=io.StringIO(), width=80))).splitlines()
    assert lines[0].strip() == "lesson: who learns"
    assert [line.split() for line in lines if "f_" in line] == [
        ["│", "f_V", "vision", "│", "❄", "frozen", "│", "1,000", "│", "0", "│"],
        ["│", "f_K", "abstractor", "│", "🔥", "full", "│", "200", "│", "200", "│"],
    ]
    assert lines[-3:] == [
        "lesson: step 1/2  loss 4.500  1,234 tokens/s  0:01:10 left",
        "lesson: step 2/2  loss 2.250  1,234 tokens/s  0:01:10 left",
        "data [v2] is odd",
    ]


def test_on_a_terminal_a_bar_moves_and_is_left_as_it_is() -> None:
    said = told(Screen(Console(file=io.StringIO(), width=100, force_terminal=True)))
    assert "2/2" in said
    assert "loss 2.250" in said
    assert "step 2/2" not in said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") == 1  # the cursor comes back


@pytest.mark.parametrize(("rank", "quiet"), [("0", False), ("1", True)])
def test_of_several_processes_the_first_speaks(rank: str, quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    assert Screen().console.quiet == quiet


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("end", ["full", "closed"])
def test_a_log_that_cannot_be_written_ends_no_run(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk is full, or whoever read the pipe is gone."""
    reads, writes = os.pipe()
    os.close(reads)
    log = os.fdopen(os.open("/dev/full", os.O_WRONLY) if end == "full" else writes, "w")
    monkeypatch.setattr(sys, "stderr", log)
    screen = Screen()
    screen.start("lesson", PARTS)
    screen.progress(Progress(1, 2, 4.5, 1e-3, 1234.5, 70.0))
    screen.note("goes on")
    screen.close()
    assert screen.console.quiet == (end == "closed")
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        log.close()
