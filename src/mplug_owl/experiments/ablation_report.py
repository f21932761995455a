"""A study's report: tables on the screen and as text, results.json, a figure and one HTML page."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mplug_owl.eval.compare.bars import save
from mplug_owl.eval.compare.values import plain
from mplug_owl.eval.statistics import OVERALL
from mplug_owl.experiments.cells import Answering
from mplug_owl.experiments.effects import FEWEST_SEEDS, Estimate
from mplug_owl.experiments.findings import Findings, Row, Tried
from mplug_owl.experiments.study import Arm
from mplug_owl.page.render import render
from mplug_owl.writing import replacing, writing

BLUE, GREY, INK = "#2166ac", "#999999", "#222222"
ANSWERING = ("calls an answer", "seconds an answer", "plans not understood")
QUICK = "A quick try of 30 minutes with one seed and few steps: not to be believed."
WIDE = 160


def write(found: Findings, out: Path, console: Console) -> Path:
    """Print the tables and write results.json, table.txt, figure.png, figure.svg and study.html into the study's folder."""
    console.print(tables(found))
    page = Console(file=io.StringIO(), width=WIDE, force_terminal=False)
    with page.capture() as captured:
        page.print(tables(found))
    texts = {"results.json": json.dumps(plain(found.as_json()), indent=1) + "\n", "table.txt": captured.get()}
    with writing(out):
        with TemporaryDirectory(prefix=".", dir=out) as fresh:  # another process may be at its report
            save(draw(found), Path(fresh), "figure")
            with Image.open(Path(fresh, "figure.png")) as picture:
                texts["study.html"] = _page(found, picture)
            for name in ("figure.png", "figure.svg"):
                Path(fresh, name).replace(out / name)
        for name, text in texts.items():
            with replacing(out / name) as file:
                file.write_text(text, encoding="utf-8")
    console.print(f"\nreport  {out / 'study.html'}", soft_wrap=True, highlight=False)
    return out / "study.html"


def tables(found: Findings) -> RenderableType:
    """All tables: each condition's arms, the abilities, the claims."""
    parts: list[RenderableType] = [Text.assemble((found.study.name, "bold"), f" · {found.study.words}")]
    if found.quick:
        parts.append(Text(QUICK, "red"))
    parts += [_arms(found, title) for title in found.conditions]
    parts += [_abilities(found, found.conditions[0]), _claims(found.claims), _costs(found)]
    parts += [*_answering(found), *map(Text, notes(found))]
    return Group(*parts)


def notes(found: Findings) -> list[str]:
    """What has to be said with the tables: what is missing, the noise floor, how intervals are made, how many comparisons."""
    said = list(found.study.notes)
    if found.missing:
        said.append(f"{found.missing} of {len(found.seeds) * len(found.study.arms)} cells are not run yet.")
    if found.noise is not None:
        said.append(
            f"Noise floor: two runs of one arm whose seeds alone differ are {100 * found.noise.mean:.1f} points apart on "
            f"average and {100 * found.noise.most:.1f} at most ({found.noise.pairs} pairs)."
        )
    if found.share != 1:
        said.append(f"Each stage has {found.share:.3g} of its usual steps.")
    if max((len(row.seeds) for row in found.rows), default=0) < FEWEST_SEEDS:
        said.append(f"No intervals of differences: they need {FEWEST_SEEDS} seeds.")
    else:
        said.append(
            "Intervals are of 95 %, over seeds and questions at once; differences are paired by seed and question. Of twenty "
            "comparisons of equal arms one is expected to lie outside by chance."
        )
    return said


def _arms(found: Findings, title: str) -> Table:
    """One condition: means, seeds and questions apart, and the difference from the reference."""
    table = _table(f"\n{title}, percent correct", "arm", "correct", "seeds ±", "questions ±", f"minus {_reference(found)}")
    table.add_column("which is")  # the only one that may be broken, so that a table fits eighty columns
    for row in found.of(title):
        table.add_row(row.arm, *figures_of(row, found))
    return table


def _costs(found: Findings) -> Table:
    """What one seed of each arm took."""
    table = _table("\ncost of one seed", "arm")
    table.add_column("steps", overflow="fold")
    for name in ("learned", "FLOPs", "minutes", "GiB (estimate)"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in found.study.arms:
        table.add_row(arm.name, steps_of(arm), *_cost(found, arm.name))
    return table


def _answering(found: Findings) -> list[Table]:
    """What the answers of arms took that experts answer; no table where there is no such arm."""
    if not found.answering:
        return []
    table = _table(f"\nanswering {found.conditions[0]}, where experts answer", "arm", *ANSWERING)
    for name, took in found.answering.items():
        table.add_row(name, *_took(took))
    return [table]


def _took(took: Answering) -> tuple[str, ...]:
    each = max(took.answers, 1)
    return (f"{took.calls / each:.1f}", f"{took.seconds / each:.2f}", f"{took.faults:,} of {took.answers:,}")


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(escape(name), justify="right", no_wrap=True)
    return table


def _reference(found: Findings) -> str:
    return found.study.compared_with


def figures_of(row: Row, found: Findings) -> tuple[str, ...]:
    """A row's cells: mean, seeds' deviation, half the questions' interval, difference, verdict.

    Where some seeds are missing, their deviation is followed by how many there are.
    """
    if not row.seeds:
        return ("–", "–", "–", "–", "not run yet")
    mean, apart = row.means[OVERALL], row.differences.get(OVERALL)
    spread = "–" if mean.seed_deviation is None else percent(mean.seed_deviation)
    if len(row.seeds) < len(found.seeds):
        spread += f" of {len(row.seeds)}"
    questions = "–" if mean.questions is None else percent(mean.questions[1] - mean.value)
    if apart is None:
        return (percent(mean.value), spread, questions, "–", "" if row.arm == _reference(found) else "no seed in common")
    return (percent(mean.value), spread, questions, with_interval(apart), apart.verdict)


def percent(value: float, sign: str = "") -> str:
    """A share times 100; a dash where it is no number."""
    return "–" if math.isnan(value) else f"{100 * value:{sign}.1f}"


def _abilities(found: Findings, title: str) -> Table:
    """The first condition by ability; what can be told apart from the reference has a mark."""
    rows = found.of(title)
    names = list(dict.fromkeys(name for row in rows for name in row.means if name != OVERALL))
    table = _table(f"\n{title}, by ability", "arm", *names)
    for row in rows:
        table.add_row(row.arm, *(ability_cell(row, name) for name in names))
    table.caption = "percent correct; + or - where it can be told apart from the reference"
    return table


def ability_cell(row: Row, name: str) -> str:
    """An ability's share, with + or - where it can be told apart from the reference's."""
    if name not in row.means:
        return "–"
    apart = row.differences.get(name)
    sign = {"better": " +", "worse": " -"}.get(apart.verdict if apart is not None else "", "  ")
    return percent(row.means[name].value) + sign


def _claims(claims: Sequence[Tried]) -> Table:
    table = Table(title="\nclaims", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("claim", "arms", "asked", "in points", "ours"):
        table.add_column(name, overflow="fold")
    for one in claims:
        came = "–" if one.estimate is None else with_interval(one.estimate)
        table.add_row(escape(one.claim.words), f"{one.claim.better} - {one.claim.worse}", escape(asked_of(one)), came, one.mark)
    return table


def asked_of(one: Tried) -> str:
    """What a claim is about: the condition, and abilities where they are not all."""
    return one.claim.condition + (f": {', '.join(one.claim.abilities)}" if one.claim.abilities else "")


def with_interval(found: Estimate) -> str:
    """A difference in points with its interval, where there is one."""
    value = percent(found.value, "+")
    return value if found.interval is None else value + " [{}, {}]".format(*(percent(end, "+") for end in found.interval))


def steps_of(arm: Arm) -> str:
    """The steps of an arm's stages, in their order."""
    return " + ".join(f"{stage.steps:,}" for stage in arm.stages) or "none"


def _cost(found: Findings, arm: str) -> tuple[str, ...]:
    cost = found.costs[arm]
    if cost is None:
        return ("–", "–", "–", "–")
    return (f"{cost.trainable:,}", f"{cost.flops:.1e}", f"{cost.seconds / 60:.1f}", f"{cost.gib:.2f}")


def draw(found: Findings) -> Figure:
    """A panel a condition, a row an arm that has run: its mean, each seed's, and the interval over seeds and questions."""
    titles = found.conditions
    arms = [row.arm for row in found.of(titles[0]) if row.seeds]
    figure = Figure(figsize=(2.6 + 2.3 * len(titles), 1.5 + 0.3 * len(arms)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(titles), squeeze=False, sharey=True)[0]
    for panel, title in zip(panels, titles, strict=True):
        for height, row in enumerate(row for row in found.of(title) if row.seeds):
            colour = INK if row.arm == found.study.compared_with else BLUE
            mean = row.means[OVERALL]
            panel.plot([100 * value for value in row.by_seed], [height] * len(row.by_seed), "|", color=GREY, markersize=7)
            if mean.interval is not None:
                low, high = (100 * min(max(end, 0.0), 1.0) for end in mean.interval)
                panel.plot([low, high], [height, height], color=colour, linewidth=1.4)
            panel.plot([100 * mean.value], [height], "o", color=colour, markersize=4.5)
        panel.set_title(title, fontsize=9, loc="left", parse_math=False)
        panel.set(xlim=(0, 100), ylim=(max(len(arms), 1) - 0.5, -0.5))
        panel.set_yticks(range(len(arms)), arms, fontsize=8.5)
        panel.tick_params(length=0, labelsize=8)
        panel.grid(axis="x", alpha=0.25)
        for side in panel.spines.values():
            side.set_visible(False)
    drawn = any(row.means[OVERALL].interval is not None for row in found.rows if row.seeds)
    bars = "line: 95 % over seeds and questions" if drawn else "no intervals under three seeds or six questions"
    words = fill(f"{found.study.name}: {found.study.words}", round(10.5 * figure.get_figwidth()))
    figure.suptitle(words, fontsize=11, x=0.01, ha="left", fontweight="bold", parse_math=False)
    label = f"percent correct · dot: mean · tick: one seed · {bars}" + (f" · {QUICK}" if found.quick else "")
    figure.supxlabel(fill(label, round(16 * figure.get_figwidth())), fontsize=8, x=0.01, ha="left", color="#666666")
    return figure


def _page(found: Findings, picture: Image.Image) -> str:
    rows = {title: [(row.arm, figures_of(row, found)) for row in found.of(title)] for title in found.conditions}
    first = found.of(found.conditions[0])
    names = list(dict.fromkeys(name for row in first for name in row.means if name != OVERALL))
    return render(
        "experiments/ablation.html.jinja",
        title=f"The study {found.study.name}",
        found=found,
        picture=picture,
        rows=rows,
        abilities=names,
        by_ability=[(row.arm, [ability_cell(row, name) for name in names]) for row in first],
        claims=[(one, asked_of(one), "–" if one.estimate is None else with_interval(one.estimate)) for one in found.claims],
        steps_of=steps_of,
        costs={arm.name: _cost(found, arm.name) for arm in found.study.arms},
        answering={name: _took(took) for name, took in found.answering.items()},
        answering_titles=ANSWERING,
        notes=notes(found),
        quick=QUICK if found.quick else "",
    )
