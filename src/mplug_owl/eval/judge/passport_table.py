"""A judge's grades and its passport on a screen."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mplug_owl.eval.grade import LETTERS, Grade
from mplug_owl.eval.judge.corrected import CorrectedShare
from mplug_owl.eval.judge.passport import Passport
from mplug_owl.eval.statistics import counted, share

STYLES = {"sound": "green", "suspect": "bold red", "undecided": "yellow", "not measured": "dim"}


def show_letters(grades: Sequence[Grade], passport: Passport, console: Console) -> None:
    """How many of each system's answers a judge gave each letter, and the share of A or B: as judged, and corrected."""
    mine = counted([one for one in grades if one.kind == "judge" and one.grader == passport.judge])
    corrected = {(share.model, share.split, share.mode): share for share in passport.shares}
    for condition in dict.fromkeys(one.answer.condition for one in mine):
        table = Table(highlight=False, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("system", overflow="fold", min_width=12)
        for column in ("/".join(LETTERS), "unscored", "no answer", "A or B, %", "corrected, %"):
            table.add_column(column, justify="right", no_wrap=column.startswith("A/"))
        there = [one for one in mine if one.answer.condition == condition]
        for model in dict.fromkeys(one.answer.model for one in there):
            here = [one for one in there if one.answer.model == model]
            letters = [sum(one.letter == letter for one in here) for letter in LETTERS]
            empty = sum(not one.answer.text.strip() for one in here)
            unscored = len(here) - sum(letters) - empty
            cells = ("/".join(map(str, letters)), str(unscored), str(empty), str(share(here)))
            table.add_row(model, *cells, _corrected(corrected.get((model, condition.split, condition.mode))))
        console.print(f"{condition.table}, {condition.title}, graded by {passport.judge}", style="bold", highlight=False)
        console.print(table)


def show_passport(passport: Passport, console: Console) -> None:
    """What is known of a judge, line by line; it belongs beside every table of its grades."""
    table = Table(highlight=False, box=SIMPLE_HEAD)
    for column in ("", "figure [95 %]", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("limit, and what else was seen", overflow="fold")
    for line in passport.lines:
        table.add_row(line.name, line.figure, Text(line.verdict, STYLES[line.verdict]), line.reason)
    console.print(f"The judge's passport: {passport.judge}", style="bold", highlight=False)
    console.print(table)
    if passport.errors is not None:
        one = passport.errors
        console.print(
            f"Against people it finds {one.sensitivity:.0%} of {one.good} acceptable answers and {one.specificity:.0%} of "
            f"{one.bad} others; shares are corrected by that (arXiv 2511.21140)",
            highlight=False,
        )
        if not passport.errs_alike:
            console.print(
                "But it errs more for some systems than for others: corrected shares are wrong there", style="bold red"
            )


def _corrected(share: CorrectedShare | None) -> str:
    if share is None or share.value is None or share.interval is None:
        return "-"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * number for number in (share.value, *share.interval)))
