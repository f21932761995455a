"""An exam's report: a table on the screen, plain results, a radar of the abilities, and every wrong answer to look at."""

import json
from collections.abc import Sequence
from math import pi
from pathlib import Path
from typing import cast

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from PIL import Image
from rich.console import Console
from rich.table import Table

from mplug_owl.eval.grade import Grade
from mplug_owl.eval.statistics import OVERALL, Figures, counted, figures
from mplug_owl.page.render import inline, render
from mplug_owl.writing import writing

# Wong's colours for the colour-blind, Nature Methods 8 (2011), 441, and how the lines are broken. More columns than these
# start over with the next marker.
LINES = (
    ("#d55e00", "-"),
    ("#6f6f6f", "-"),
    ("#0072b2", "--"),
    ("#009e73", ":"),
    ("#cc79a7", "-."),
    ("#e69f00", "-"),
    ("#56b4e9", "--"),
)
# One ability has nothing to be compared with.
SPOKES = 2
MARKERS = ("", "o", "s", "^", "D", "v", "P", "X")


def show(grades: Sequence[Grade], console: Console) -> None:
    """The tables on a screen of 100 columns."""
    for made in figures(grades):
        table = Table(highlight=False)
        table.add_column("ability")
        for column in made.columns:
            table.add_column(column, justify="right")
        for ability, shares in made.rows:
            if ability == OVERALL:
                table.add_section()
            style = "bold" if ability == OVERALL else None
            table.add_row(ability, *map(str, shares), style=style)
        if made.unscored:
            table.add_row("without a grade", *map(str, made.unscored), style="dim")
        console.print(f"{made.title}: {made.measure} [95 % interval]", style="bold", highlight=False)
        console.print(table)


def write(grades: Sequence[Grade], out: Path, name: str) -> None:
    """results.json, wrong.html and, of two abilities or more, radar.png into a folder. `name` is the model's, for titles."""
    rows = [grade.row() for grade in grades]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        first = figures(grades)[0]
        (out / "radar.png").unlink(missing_ok=True)  # a former exam's
        if len(first.rows) - 1 >= SPOKES:
            radar(first, out / "radar.png", name)
        (out / "wrong.html").write_text(wrong(grades, out / "radar.png", name), encoding="utf-8")


def radar(made: Figures, target: Path, name: str, filled: int = 2) -> Figure:
    """The abilities as spokes, 0 to 100 %: a line a column, the first ones `filled`, and then the first one's intervals."""
    figure = Figure(figsize=(6, 6), dpi=130)
    FigureCanvasAgg(figure)
    panel = cast(PolarAxes, figure.add_subplot(projection="polar"))
    rows = [row for row in made.rows if row[0] != OVERALL]
    angles = [2 * pi * number / len(rows) for number in range(len(rows))]
    for number, title in enumerate(made.columns):
        heights = [shares[number].value for _, shares in rows]
        again, line = divmod(number, len(LINES))
        colour, dashes = LINES[line]
        panel.plot(
            [*angles, angles[0]],
            [*heights, heights[0]],
            color=colour,
            linestyle=dashes,
            marker=MARKERS[again % len(MARKERS)],
            linewidth=1.8,
            label=title,
        )
        if number < filled:
            panel.fill(angles, heights, color=colour, alpha=0.12)
    for angle, (_, shares) in zip(angles, rows, strict=True) if filled else ():
        panel.plot([angle, angle], shares[0].interval, color=LINES[0][0], linewidth=4, alpha=0.35, solid_capstyle="butt")
    _dress(panel, angles, [ability for ability, _ in rows], f"{name}, {made.title}")
    figure.savefig(target, bbox_inches="tight", pad_inches=0.25)
    return figure


def _dress(panel: PolarAxes, angles: Sequence[float], abilities: Sequence[str], title: str) -> None:
    """The radar's axes, grid, title and legend."""
    panel.set_theta_zero_location("N")
    panel.set_theta_direction(-1)
    panel.set_xticks(angles, abilities)
    panel.tick_params(pad=10)
    panel.set_yticks([0.25, 0.5, 0.75, 1.0], ["25", "50", "75", "100 %"], color="#777777", fontsize=8)
    panel.set(ylim=(0, max(1.0, panel.get_ylim()[1])))  # CIDEr goes above 1
    panel.grid(alpha=0.3)
    panel.spines["polar"].set_alpha(0.2)
    panel.set_title(title, pad=18)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False, fontsize=9)


def wrong(grades: Sequence[Grade], radar_file: Path, name: str) -> str:
    """A page of the wrong answers, each beside its picture. Those given without a picture are left out: they are guesses.

    Where there are several graders the first one says what is wrong, and what it could not grade is not wrong.
    """
    everything = grades
    grades = [one for one in counted(grades) if one.grader == grades[0].grader and one.score is not None]
    groups = []
    for condition in dict.fromkeys(grade.answer.condition for grade in grades if grade.answer.condition.mode != "none"):
        here = [grade for grade in grades if grade.answer.condition == condition]
        for ability in dict.fromkeys(grade.answer.question.ability for grade in here):
            graded = [grade for grade in here if grade.answer.question.ability == ability]
            if missed := [grade.answer for grade in graded if not grade.correct]:
                title = f"{ability}, {condition.title}, {condition.table}"
                groups.append({"title": title, "asked": len(graded), "answers": missed})
    drawn = None
    if radar_file.is_file():
        with Image.open(radar_file) as picture:
            drawn = inline(picture, colours=None)
    return render(
        "eval/wrong.html.jinja",
        title=f"What {name} got wrong",
        lede="Every wrong answer beside what was asked about: the answer in red, the correct one in green. "
        "Where the model got a description, the picture is shown here all the same.",
        tables=(tables := figures(everything)),
        measure=" · ".join(dict.fromkeys(table.measure for table in tables)).capitalize(),
        radar=drawn,
        groups=groups,
    )
