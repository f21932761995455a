"""What a run says while it goes, and how a terminal shows it."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from mplug_owl.train.trainable import SIGNS, TUNINGS, Part


@dataclass(frozen=True)
class Progress:
    """A line of metrics as it is reported.

    The step counted from 1, the mean loss since the last line, learning rate, speed, seconds until the last step.
    """

    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: float
    seconds_left: float


class Reporter(Protocol):
    """Everything that a run says goes through here. Of several processes only the main one speaks."""

    def start(self, name: str, parts: Sequence[Part]) -> None:
        """The run of this name begins; `parts` say who learns."""
        ...

    def progress(self, progress: Progress) -> None:
        """A line of metrics was written."""
        ...

    def note(self, sentence: str) -> None:
        """Something that a user wants to know."""
        ...

    def close(self) -> None:
        """The run ended, well or not."""
        ...


class Silent:
    """A reporter that says nothing."""

    def start(self, name: str, parts: Sequence[Part]) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def note(self, sentence: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LastingConsole(Console):
    """A console that ends no run: not with its log on a full disk, nor where nobody reads the other end of a pipe any more."""

    def print(self, *said: Any, **options: Any) -> None:
        """Print, or leave it where that fails."""
        with suppress(OSError):
            super().print(*said, **options)

    def on_broken_pipe(self) -> None:
        """Be quiet from now on; rich would leave the program."""
        self.quiet = True


class Screen:
    """A reporter for a terminal: a table of who learns, a progress bar, and notes. Elsewhere each progress is a line.

    Without a console of its own it writes to stderr, and in all processes but the first it is quiet.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or LastingConsole(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
        self._name = ""
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def start(self, name: str, parts: Sequence[Part]) -> None:
        """Print the table of who learns."""
        self._name = name
        self.console.print(trainable_table(parts, f"{name}: who learns"))

    def progress(self, progress: Progress) -> None:
        """Move the bar, or print a line where there is no terminal."""
        speed = f"{progress.tokens_per_second:,.0f} tokens/s"
        left = f"{timedelta(seconds=round(progress.seconds_left))} left"
        if not self.console.is_terminal:
            line = f"{self._name}: step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {speed}  {left}"
            self.console.print(line, highlight=False)
            return
        if self._bar is None:
            self._bar = _bar(self.console)
            self._task = self._bar.add_task(self._name, total=progress.steps, loss="", speed="", left="")
            self._bar.start()
        self._bar.update(self._task, completed=progress.step, loss=f"{progress.loss:.3f}", speed=speed, left=left)

    def note(self, sentence: str) -> None:
        """Print it."""
        self.console.print(sentence, markup=False)  # a folder's name may hold [brackets]

    def close(self) -> None:
        """Leave the bar as it is."""
        with suppress(OSError):
            if self._bar is not None:
                self._bar.stop()


def trainable_table(parts: Sequence[Part], title: str) -> Table:
    """The table of the three modules: how each learns, and how many parameters."""
    table = Table(title=title, title_justify="left")
    for name in ("module", "learns", "parameters", "trainable"):
        table.add_column(name, justify="left" if name in ("module", "learns") else "right")
    for part in parts:
        how = f"{SIGNS[part.tuning]} {TUNINGS[part.tuning]}"
        table.add_row(f"{part.symbol} {part.name}", how, f"{part.parameters:,}", f"{part.trainable:,}")
    total, trainable = sum(part.parameters for part in parts), sum(part.trainable for part in parts)
    table.add_section()
    table.add_row("in all", "", f"{total:,}", f"{trainable:,}", style="bold")
    return table


def _bar(console: Console) -> Bar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}"),
    )
    return Bar(*columns, console=console)
