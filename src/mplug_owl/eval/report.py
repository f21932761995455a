"""What an exam came to: a table on the screen, plain results, a radar of the abilities, and every wrong answer to look at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path
from typing import cast

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from PIL import Image
from rich.console import Console
from rich.table import Table

from mplug_owl.eval.answer import Answered
from mplug_owl.eval.statistics import wilson
from mplug_owl.page.render import inline, render

OVERALL = "overall"


@dataclass(frozen=True)
class Share:
    """How many were right of how many that were asked."""

    right: int
    asked: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, between 0 and 1."""
        return wilson(self.right, self.asked)

    def __str__(self) -> str:
        return "{} [{}, {}]".format(*map(_percent, (self.right / self.asked, *self.interval)))


@dataclass(frozen=True)
class Figures:
    """One table: a column a sitting, a row an ability and the last one for all of them together."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Share, ...]], ...]


def share(answered: Sequence[Answered]) -> Share:
    """The right ones among these answers."""
    return Share(sum(one.correct for one in answered), len(answered))


def figures(answered: Sequence[Answered]) -> list[Figures]:
    """The tables of an exam, in the order of its sittings and abilities. Every sitting of a table asks the same abilities."""
    tables = []
    for title in dict.fromkeys(one.sitting.table for one in answered):
        here = [one for one in answered if one.sitting.table == title]
        sittings = dict.fromkeys(one.sitting for one in here)
        rows = []
        for ability in (*dict.fromkeys(one.problem.ability for one in here), OVERALL):
            asked = [one for one in here if ability in (one.problem.ability, OVERALL)]
            rows.append((ability, tuple(share([one for one in asked if one.sitting == sitting]) for sitting in sittings)))
        tables.append(Figures(title, tuple(sitting.title for sitting in sittings), tuple(rows)))
    return tables


def show(answered: Sequence[Answered], console: Console) -> None:
    """The tables on a screen of 100 columns."""
    for made in figures(answered):
        table = Table(highlight=False)
        table.add_column("ability")
        for column in made.columns:
            table.add_column(column, justify="right")
        for ability, shares in made.rows:
            if ability == OVERALL:
                table.add_section()
            style = "bold" if ability == OVERALL else None
            table.add_row(ability, *map(str, shares), style=style)
        console.print(f"{made.title}: percent right [95 % interval]", style="bold", highlight=False)
        console.print(table)


def write(answered: Sequence[Answered], out: Path, name: str) -> None:
    """results.json, radar.png and wrong.html of an exam into a folder. `name` is the model's, for the titles."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [one.row() for one in answered]
    (out / "results.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    radar(figures(answered)[0], out / "radar.png", name)
    (out / "wrong.html").write_text(wrong(answered, out / "radar.png", name), encoding="utf-8")


def radar(made: Figures, target: Path, name: str) -> None:
    """The abilities as spokes, 0 to 100 %: a line a sitting, the first two filled, and the first one's intervals."""
    figure = Figure(figsize=(6, 6), dpi=130)
    FigureCanvasAgg(figure)
    panel = cast(PolarAxes, figure.add_subplot(projection="polar"))
    rows = [row for row in made.rows if row[0] != OVERALL]
    angles = [2 * pi * number / len(rows) for number in range(len(rows))]
    # Wong's colours for the colour-blind, Nature Methods 8 (2011), 441.
    lines = (("#d55e00", "-"), ("#6f6f6f", "-"), ("#0072b2", "--"), ("#009e73", ":"))
    for number, (title, (colour, dashes)) in enumerate(zip(made.columns, lines, strict=False)):
        heights = [shares[number].right / shares[number].asked for _, shares in rows]
        panel.plot([*angles, angles[0]], [*heights, heights[0]], color=colour, linestyle=dashes, linewidth=1.8, label=title)
        if number < 2:
            panel.fill(angles, heights, color=colour, alpha=0.12)
    for angle, (_, shares) in zip(angles, rows, strict=True):
        panel.plot([angle, angle], shares[0].interval, color=lines[0][0], linewidth=4, alpha=0.35, solid_capstyle="butt")
    panel.set_theta_zero_location("N")
    panel.set_theta_direction(-1)
    panel.set_xticks(angles, [ability for ability, _ in rows])
    panel.tick_params(pad=10)
    panel.set_yticks([0.25, 0.5, 0.75, 1.0], ["25", "50", "75", "100 %"], color="#777777", fontsize=8)
    panel.set(ylim=(0, 1))
    panel.grid(alpha=0.3)
    panel.spines["polar"].set_alpha(0.2)
    panel.set_title(f"{name}, {made.title}", pad=18)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False, fontsize=9)
    figure.savefig(target, bbox_inches="tight", pad_inches=0.25)


def wrong(answered: Sequence[Answered], radar_file: Path, name: str) -> str:
    """A page of the wrong answers, each beside its scene. Those given without a picture are left out: they are guesses."""

    groups = []
    for sitting in dict.fromkeys(one.sitting for one in answered if one.sitting.mode != "none"):
        here = [one for one in answered if one.sitting == sitting]
        for ability in dict.fromkeys(one.problem.ability for one in here):
            asked = [one for one in here if one.problem.ability == ability]
            if missed := [one for one in asked if not one.correct]:
                title = f"{ability}, {sitting.title}, {sitting.table}"
                groups.append({"title": title, "asked": len(asked), "answers": missed})
    with Image.open(radar_file) as picture:
        drawn = inline(picture, colours=None)
    return render(
        "eval/wrong.html.jinja",
        title=f"What {name} got wrong",
        lede="Every wrong answer beside what was asked about: in red what was said, in green what is right. "
        "Where a scene was told in words, its picture is shown here all the same.",
        tables=figures(answered),
        radar=drawn,
        groups=groups,
    )


def _percent(share: float) -> str:
    """One decimal; a full hundred without, so that the table keeps to its width."""
    return f"{100 * share:.1f}".replace("100.0", "100")
