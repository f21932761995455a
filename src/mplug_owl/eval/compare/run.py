"""`owl report` from the names of entries to a folder with the report."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from rich.console import Console

from mplug_owl.errors import UserError
from mplug_owl.eval.compare import report as comparison_report
from mplug_owl.eval.compare import tables as comparison_tables
from mplug_owl.eval.compare.comparison import Comparison, Labels, compare
from mplug_owl.eval.compare.gather import gather
from mplug_owl.eval.compare.power import OWLEVAL, Plan, make_plan
from mplug_owl.eval.compare.published import published


@dataclass(frozen=True)
class ReportRun:
    """What a report is made of.

    Args:
        entries: Exams' folders and files of answers.
        grades: Files of grades besides.
        task: What files of answers are about.
        data: What the task reads.
        out: The folder that the report goes to.
        published: Whether the paper's counts stand beside.
        abilities: Whose labels of the abilities count, "ours" or "released".
        plan: The difference that an exam should show.
    """

    entries: tuple[str, ...]
    grades: tuple[Path, ...] = ()
    task: str | None = None
    data: Path | None = None
    out: Path | None = None
    published: bool = False
    abilities: str = "ours"
    plan: float | None = None


def run_report(run: ReportRun) -> Path:
    """Show the tables, and write the report; returns its folder.

    Raises:
        UserError: There is nothing to report, an entry or a file of grades does not fit, or the extra `eval` is missing.
    """
    if run.abilities not in get_args(Labels):
        raise UserError(f"--abilities {run.abilities}: expected {' or '.join(get_args(Labels))}")
    if not run.entries and not run.published and run.plan is None:
        raise UserError("nothing to report: name an exam's folder or a file of answers, --published, or --plan")
    if run.grades and not run.entries:
        raise UserError("--grades: name the entries whose answers they grade")
    console = Console(markup=False, emoji=False)
    notes = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    comparison = None
    if run.entries:
        exam, grades, pairs = gather(run.entries, run.grades, run.task, run.data, notes.print)
        comparison = compare(exam, grades, pairs, cast(Labels, run.abilities))
    paper = published() if run.published else None
    plan = _plan(run.plan, comparison) if run.plan is not None else None
    commands = _commands(run, comparison) if comparison is not None else []
    if paper is not None:
        comparison_tables.show_published(paper, console)
    if comparison is not None:
        comparison_tables.show(comparison, console)
    if plan is not None:
        comparison_tables.show_plan(plan, console)
    for line in ["Not graded yet. People or a judge grade with", *(f"  {line}" for line in commands)] if commands else []:
        console.print(line, highlight=False, soft_wrap=True)
    task = comparison.exam.task.name if comparison is not None else "owleval"
    out = run.out or Path("runs") / f"report-{task}"
    comparison_report.write(comparison, out, paper, plan, commands)
    return out


def _plan(difference: float, comparison: Comparison | None) -> Plan:
    """A plan for this exam, with the discordant shares that were seen in it; for OwlEval's 82 questions where there is none."""
    if comparison is None:
        return make_plan(difference, OWLEVAL)
    clusters = {answer.question.id: answer.question.cluster for answer in comparison.exam.answers}
    observed = []
    for one in comparison.gradings:
        shares = [(pair.discordant, f"{pair.first}, {pair.second}") for half in one.halves[-1:] for pair in half.paired]
        for found, which in sorted({min(shares), max(shares)} if shares else ()):
            observed.append((found, f"seen: {which}, by {one.grading.title}"))
    return make_plan(difference, len(clusters), observed, list(clusters.values()))


def _commands(run: ReportRun, comparison: Comparison) -> Sequence[str]:
    """What grades the systems that nobody has graded; empty where all are."""
    graded = {grade.answer.model for one in comparison.gradings for grade in one.grading.grades}
    missing = [given for given, entry in zip(run.entries, comparison.entries, strict=True) if entry.system not in graded]
    if not missing:
        return []
    words = shlex.join([*missing, *(["--data", str(run.data)] if run.data is not None else [])])
    return [f"owl rate {words}", f"owl judge JUDGE {words}"]
