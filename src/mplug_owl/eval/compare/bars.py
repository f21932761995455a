"""The paper's figure: a bar a system, cut into A, B, C and D, with its numbers and the interval of A or B below it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mplug_owl.eval.compare.gradings import LetterCounts
from mplug_owl.eval.grade import LETTERS

# ColorBrewer's RdBu, which the colour-blind tell apart, from good to bad; and what is written on each.
COLOURS, INKS = ("#2166ac", "#92c5de", "#f4a582", "#b2182b"), ("white", "#222222", "#222222", "white")
# Without a grade, or without an answer.
EMPTY = "#dddddd"
WIDTH, BAR, HEAD = 7.2, 0.46, 0.62
# How much of a bar a digit takes.
NARROW = 0.02


def draw_bars(panels: Mapping[str, Mapping[str, LetterCounts]], title: str, note: str) -> Figure:
    """A panel for each half, and in it a bar for each system, as long as its graded answers are many.

    Args:
        panels: Each panel's title, and each system's counts.
        title: The figure's.
        note: Who graded, below.
    """
    rows = [max(len(systems), 1) for systems in panels.values()]
    height = sum(BAR * count + HEAD for count in rows) + 1.0
    figure = Figure(figsize=(WIDTH, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    drawn = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[BAR * count + HEAD for count in rows])
    for panel, (name, systems) in zip(drawn[:, 0], panels.items(), strict=True):
        _draw_panel(panel, name, systems)
    figure.suptitle(title, fontsize=12, x=0.02, ha="left", fontweight="bold")
    handles: list[Any] = [drawn[0, 0].barh([0], [0], color=colour) for colour in COLOURS]
    handles.append(drawn[0, 0].errorbar([], [], xerr=[], color="#222222", capsize=2.5, linewidth=1.2))
    legend = figure.legend(
        handles,
        [*LETTERS, "A or B, 95 %"],
        loc="outside lower left",
        ncols=5,
        frameon=False,
        fontsize=9,
        title=note,
        title_fontsize=8,
        alignment="left",
    )
    legend.get_title().set_color("#666666")
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """NAME.png and NAME.svg. The same figure gives the same bytes."""
    how: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12}
    figure.savefig(folder / f"{name}.png", **how)
    with rc_context({"svg.hashsalt": "owl", "svg.fonttype": "path"}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, **how)


def _draw_panel(panel: Axes, name: str, systems: Mapping[str, LetterCounts]) -> None:
    """One half: all its bars are shares of what is graded, so that systems with other numbers of answers compare."""
    for row, counts in enumerate(systems.values()):
        left = 0.0
        for count, colour, ink in zip(counts.counts, COLOURS, INKS, strict=True):
            if counts.graded and count:
                length = count / counts.graded
                panel.barh(row, length, left=left, height=0.56, color=colour, edgecolor="white", linewidth=0.6)
                size = 9 if length >= NARROW * len(str(count)) else 6
                panel.text(left + length / 2, row, str(count), ha="center", va="center", color=ink, fontsize=size)
                left += length
        if counts.graded:
            value, (low, high) = counts.acceptable.value, counts.acceptable.interval
            panel.errorbar(
                value, row + 0.4, xerr=[[value - low], [high - value]], color="#222222", capsize=2.5, linewidth=1.2, marker="|"
            )
            panel.text(1.02, row, f"{100 * value:.0f} %", va="center", fontsize=9, fontweight="bold")
        else:
            panel.barh(row, 1.0, height=0.56, color=EMPTY)
            panel.text(0.5, row, "no grades", ha="center", va="center", fontsize=9, color="#555555")
    panel.set_yticks(range(len(systems)), [*systems], fontsize=9.5)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"], fontsize=8, color="#666666")
    panel.set(xlim=(0, 1.1), ylim=(len(systems) - 0.4, -0.6))
    panel.set_title(name, fontsize=10, loc="left", pad=4)
    panel.text(1.02, -0.62, "A or B", va="bottom", fontsize=8, color="#666666")
    panel.tick_params(length=0)
    panel.grid(axis="x", alpha=0.25)
    panel.set_axisbelow(True)
    for side in panel.spines.values():
        side.set_visible(False)
