"""A comparison of systems as plain values, for report.json. What is not known is null."""

import math
from dataclasses import asdict, is_dataclass
from typing import Any

from mplug_owl.eval.compare.comparison import Comparison, GradingFigures, Half
from mplug_owl.eval.compare.gradings import LetterCounts
from mplug_owl.eval.compare.power import Plan
from mplug_owl.eval.compare.published import Published
from mplug_owl.eval.grade import LETTERS
from mplug_owl.eval.statistics import Figures, Mean, Share, wilson


def values(comparison: Comparison | None, published: Published | None = None, plan: Plan | None = None) -> dict[str, Any]:
    """Everything that the report shows."""
    found: dict[str, Any] = {}
    if comparison is not None:
        found |= {
            "task": comparison.exam.task.name,
            "abilities": comparison.labels,
            "systems": [plain(entry) for entry in comparison.entries],
            "gradings": [_grading(one) for one in comparison.gradings],
            "rankings": [plain(one) for one in comparison.rankings],
        }
    if published is not None:
        halves = {half: {name: counts_row(one) for name, one in found.items()} for half, found in published.halves.items()}
        found["published"] = {"source": published.source, "graders": published.graders, "halves": halves}
    if plan is not None:
        found["plan"] = plain(plan)
    return found


def counts_row(counts: LetterCounts) -> dict[str, Any]:
    """One system's counts, and its share of A or B with both intervals."""
    return {
        **dict(zip(LETTERS, counts.counts, strict=True)),
        "unscored": counts.unscored,
        "unanswered": counts.unanswered,
        "ungraded": counts.ungraded,
        "acceptable": figure_row(counts.acceptable),
    }


def figure_row(figure: Share | Mean) -> dict[str, Any]:
    """A figure and its intervals."""
    if isinstance(figure, Mean):
        return plain({"mean": figure.value, "interval": figure.interval, "total": figure.total})
    ends = wilson(figure.correct, figure.total) if figure.total else None
    return plain({"share": figure.value, "total": figure.total, "wilson": ends, "by_picture": figure.resampled})


def plain(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists, and what is no number as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _grading(one: GradingFigures) -> dict[str, Any]:
    return {
        "title": one.grading.title,
        "kind": one.grading.kind,
        "graders": list(one.grading.graders),
        "rule": one.grading.rule,
        "halves": [_half(half) for half in one.halves],
        "tables": [_table(table) for table in one.tables],
        "agreement": [plain(each) for each in one.agreement],
        "passport": plain(one.passport.row()) if one.passport is not None else None,
    }


def _half(half: Half) -> dict[str, Any]:
    return {
        "title": half.title,
        "systems": {name: counts_row(counts) for name, counts in half.counts},
        "by_ability": _table(half.abilities)["rows"],
        "paired": [{**plain(each), "net": each.net, "discordant": each.discordant} for each in half.paired],
    }


def _table(table: Figures) -> dict[str, Any]:
    rows = {name: dict(zip(table.columns, map(figure_row, row), strict=True)) for name, row in table.rows}
    return {"title": table.title, "rows": rows}
