"""A comparison of systems on a screen."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mplug_owl.eval.compare.comparison import Comparison, Entry, GradingFigures, Half, Ranking
from mplug_owl.eval.compare.gradings import LetterCounts
from mplug_owl.eval.compare.paired import PairedDifference
from mplug_owl.eval.compare.power import Plan
from mplug_owl.eval.compare.published import Published
from mplug_owl.eval.compare.rater_agreement import Agreement
from mplug_owl.eval.grade import LETTERS
from mplug_owl.eval.judge.passport_table import show_passport
from mplug_owl.eval.judge.text_table import show_text, text_tables
from mplug_owl.eval.resampling import Interval
from mplug_owl.eval.statistics import Figures, wilson

# The task whose judge's scores are of 1 to 10, beside a reference's.
TEXT = "text"


def show(comparison: Comparison, console: Console) -> None:
    """Who answered, and what each group of graders says."""
    rows = [entry_cells(entry, comparison.gradings) for entry in comparison.entries]
    console.print(_table(("system", "answered", "words", "graded by"), rows))
    for one in comparison.gradings:
        console.print(f"\nGraded by {one.grading.title}: {one.grading.rule}", style="bold", highlight=False)
        for half in one.halves:
            console.print(half.title, highlight=False)
            console.print(counts_table(dict(half.counts)))
        if comparison.exam.task.name == TEXT and one.grading.kind == "judge":
            show_text(text_tables(comparison.exam, one.grading.grades, one.grading.graders[0]), console)
        else:
            for made in one.tables:
                show_figures(made, console)
        if one.halves and one.halves[-1].paired:
            show_paired(one.halves[-1], console)
        for agreement in one.agreement:
            console.print(agreement_words(agreement), highlight=False)
        if one.passport is not None:
            show_passport(one.passport, console)
    for ranking in comparison.rankings:
        show_ranking(ranking, console)


def entry_cells(entry: Entry, gradings: Sequence[GradingFigures]) -> tuple[str, str, str, str]:
    """A system's row: how much it answered, how long, and who graded how much of that."""
    graded = []
    for one in gradings:
        mine = [grade for grade in one.grading.grades if grade.answer.model == entry.system and grade.answer.text]
        if mine:
            graded.append(f"{one.grading.title} ({sum(grade.score is not None for grade in mine)})")
    words = f"{entry.mean_words:.0f}" if entry.answered else "–"
    return entry.system, f"{entry.answered} of {entry.asked}", words, "; ".join(graded) or "not graded yet"


def counts_table(systems: Mapping[str, LetterCounts]) -> Table:
    """Counts, the share of A or B with both intervals, and what is no grade."""
    columns = ("system", *LETTERS, "A or B", "Wilson", "by picture", "unscored", "no answer", "ungraded")
    return _table(columns, ([name, *counts_cells(counts)] for name, counts in systems.items()))


def counts_cells(counts: LetterCounts) -> list[str]:
    """A system's row after its name."""
    share, none = counts.acceptable, (counts.unscored, counts.unanswered, counts.ungraded)
    shown = ["–", "", ""]
    if share.total:
        shown = [percent(share.value), ends(wilson(share.correct, share.total)), ends(share.resampled)]
    return [*map(str, counts.counts), *shown, *(str(count or "") for count in none)]


def show_figures(made: Figures, console: Console) -> None:
    """Figures with a row a system: abilities are few and systems may be many."""
    rows = []
    for number, system in enumerate(made.columns):
        cells = (row[number] for _, row in made.rows)
        rows.append([system, *(percent(cell.value) if cell.total else "–" for cell in cells)])
    console.print(f"{made.title}, {made.measure}; intervals are in the report", highlight=False)
    names = (name.replace("optical character recognition", "OCR").replace(" ", "\n") for name, _ in made.rows)
    console.print(_table(("", *names), rows))


def show_paired(half: Half, console: Console) -> None:
    """Every two systems, on the questions that are graded for both."""
    columns = ("first", "second", "n", "A or B", "better/worse", "net", "p (Holm)")
    console.print(f"Every two systems, {half.title}: first less second in points [95 %, by picture]", highlight=False)
    console.print(_table(columns, ([*paired_cells(one)[:6], paired_cells(one)[-1]] for one in half.paired)))


def paired_cells(one: PairedDifference) -> list[str]:
    """A pair's row."""
    return [
        one.first,
        one.second,
        str(one.total),
        f"{points(one.difference)} {ends(one.difference_interval, points)}",
        f"{one.better}/{one.worse}",
        f"{points(one.net)} {ends(one.net_interval, points)}",
        p_words(one.p_value),
        p_words(one.adjusted),
    ]


def show_ranking(ranking: Ranking, console: Console) -> None:
    """Strengths from pairs."""
    rows = []
    for one in ranking.strengths:
        interval = ends(one.interval, "{:+.0f}".format)
        rows.append([one.system, f"{one.points:+.0f} {interval}", str(one.won), str(one.lost), str(one.tied)])
    console.print(f"\n{ranking_words(ranking)}", style="bold", highlight=False)
    if rows:
        console.print(_table(("system", "points [95 %]", "won", "lost", "tied"), rows))


def show_published(published: Published, console: Console) -> None:
    """The paper's counts, and the intervals that it did not give."""
    for half, systems in published.halves.items():
        console.print(f"{published.source}; {half}-turn, graded by {published.graders}", highlight=False)
        console.print(counts_table(systems))


def show_plan(plan: Plan, console: Console) -> None:
    """How many questions a difference needs, and what so many show."""
    rows = []
    for row in plan.rows:
        shows = f"{100 * row.shows:.0f} points" if row.shows is not None else "nothing"
        rows.append([f"{row.discordant:.0%}", str(row.questions), f"{row.power:.0%}", shows, row.note])
    console.print(f"\nTo show a difference of {100 * plan.difference:.3g} points of A or B", style="bold", highlight=False)
    console.print(_table(("one alone acceptable", "questions", "exact power", f"{plan.size} show", ""), rows))
    for sentence in plan_words(plan):
        console.print(sentence, highlight=False)


def plan_words(plan: Plan) -> Iterable[str]:
    """What a plan assumes."""
    yield "Two systems answer the same questions; McNemar's test, two-sided, 5 %, power 80 % (Connor, Biometrics 43, 1987)."
    yield "Questions are taken as independent, and graders as certain: both make the numbers too small."
    if plan.pictures is not None and plan.effect > 1:
        yield (
            f"Here {plan.size} questions are about {plan.pictures} pictures. If those about one picture always went together, "
            f"{plan.effect:.1f} times as many would be needed."
        )


def ranking_words(ranking: Ranking) -> str:
    """What a ranking is made of."""
    unread = f", {ranking.unread} could not be read" if ranking.unread else ""
    return (
        f"Pairs compared by {ranking.judge}: {ranking.pairs}; {ranking.flipped} verdicts changed with the order and are "
        f"ties{unread}"
    )


def agreement_words(one: Agreement) -> str:
    """Agreement in a sentence."""
    alpha = "undefined, all letters are one" if one.alpha is None else f"{one.alpha:.2f} {ends(one.interval, '{:.2f}'.format)}"
    return f"{one.about}: ordinal alpha {alpha} on {one.answers} answers; {one.same:.0%} of pairs of grades are the same letter"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.0f} %"


def points(value: float) -> str:
    """A difference of shares."""
    return f"{100 * value:+.0f}"


def ends(interval: Interval | None, shown: Callable[[float], str] = lambda value: f"{100 * value:.0f}") -> str:
    """An interval in brackets; nothing where it is not known."""
    return "" if interval is None or math.isnan(interval[0]) else f"[{shown(interval[0])}, {shown(interval[1])}]"


def p_words(value: float) -> str:
    """A p-value with two digits that matter."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose figures stand to the right. Columns without any figure are left out."""
    cells = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, highlight=False, pad_edge=False, collapse_padding=True)
    kept = [at for at in range(len(columns)) if at == 0 or any(row[at] for row in cells)]
    for at in kept:
        words = columns[at] in ("system", "first", "second", "graded by", "")
        # Where a screen is narrow, words are folded and figures are not cut.
        table.add_column(columns[at], justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in cells:
        table.add_row(*(row[at] for at in kept))
    return table
