"""A comparison of systems as files: report.html with every answer beside its picture, report.json, bars and radars."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mplug_owl.chat.trace import Call
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.compare import tables as tables
from mplug_owl.eval.compare.bars import COLOURS, INKS, draw_bars, save
from mplug_owl.eval.compare.comparison import Comparison, GradingFigures
from mplug_owl.eval.compare.gradings import LetterCounts
from mplug_owl.eval.compare.power import Plan
from mplug_owl.eval.compare.published import Published
from mplug_owl.eval.compare.values import values
from mplug_owl.eval.grades_file import key
from mplug_owl.eval.report import radar
from mplug_owl.eval.task import Condition, Question
from mplug_owl.eval.traces import inline_picture
from mplug_owl.page.render import render
from mplug_owl.writing import writing

HTML, JSON = "report.html", "report.json"


@dataclass(frozen=True)
class Marked:
    """A system's answer to a question, what each group of graders gave it (a letter, a score or none), and its trace."""

    system: int
    name: str
    text: str
    marks: tuple[tuple[str, str], ...]
    trace: tuple[Call, ...] = ()

    @property
    def first(self) -> str:
        """What the first group gave it."""
        return self.marks[0][1] if self.marks else ""


@dataclass(frozen=True)
class Asked:
    """A question in one condition, what was asked before it, and every system's answer."""

    question: Question
    condition: Condition
    answers: tuple[Marked, ...]


@dataclass(frozen=True)
class Shown:
    """A picture, and all questions about it."""

    name: str
    picture: str | None
    asked: tuple[Asked, ...]


def write(
    comparison: Comparison | None,
    out: Path,
    published: Published | None = None,
    plan: Plan | None = None,
    commands: Sequence[str] = (),
) -> None:
    """The report's files into a folder. `commands` are what grades the systems that nobody has graded yet."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        drawn = draw(comparison, out, published)
        found = values(comparison, published, plan)
        (out / JSON).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
        (out / HTML).write_text(page(comparison, drawn, published, plan, commands), encoding="utf-8")


def draw(comparison: Comparison | None, out: Path, published: Published | None) -> dict[str, str]:
    """Bars and radars as PNG and SVG, and each SVG as an address that holds it, by the title of who graded."""
    drawn = {}
    if published is not None:
        panels = {f"{half}-turn, {published.questions[half]} questions": found for half, found in published.halves.items()}
        figure = draw_bars(panels, f"OwlEval, graded by {published.graders}", f"published counts: {published.source}")
        save(figure, out, "published")
        drawn["published"] = _address(out / "published.svg")
    for one in comparison.gradings if comparison is not None else ():
        stem = re.sub(r"[^\w.+-]+", "-", one.grading.title)[:80]
        if one.halves:
            panels = {f"{half.title}, {_size(half.counts)} questions": dict(half.counts) for half in one.halves}
            save(draw_bars(panels, f"Graded by {one.grading.title}", one.grading.rule), out, f"bars-{stem}")
            drawn[f"bars {one.grading.title}"] = _address(out / f"bars-{stem}.svg")
        for number, made in enumerate(one.tables):
            if len(made.rows) > 3:  # abilities and all of them: a radar has three spokes at least
                name = f"radar-{stem}" + (f"-{number}" if number else "")
                save(radar(made, out / f"{name}.png", one.grading.title, filled=0), out, name)
                drawn[f"radar {one.grading.title} {number}"] = _address(out / f"{name}.svg")
    return drawn


def page(
    comparison: Comparison | None,
    drawn: Mapping[str, str],
    published: Published | None = None,
    plan: Plan | None = None,
    commands: Sequence[str] = (),
) -> str:
    """The page: figures and tables, and then every answer beside its picture."""
    shown = pictures(comparison) if comparison is not None else []
    systems = [entry.system for entry in comparison.entries] if comparison is not None else []
    named = {"owleval": "OwlEval", "scenes": "The drawn world"}
    task = comparison.exam.task.name if comparison is not None else "owleval"
    return render(
        "eval/compare/comparison.html.jinja",
        title=named.get(task, task) + (f", {len(systems)} system{'s'[: len(systems) != 1]}" if systems else ", as published"),
        comparison=comparison,
        published=published,
        plan=plan,
        commands=commands,
        drawn=drawn,
        shown=shown,
        systems=systems,
        abilities=sorted({asked.question.ability for one in shown for asked in one.asked}),
        conditions=comparison.conditions if comparison is not None else (),
        tables=tables,
        colours=dict(zip("ABCD", zip(COLOURS, INKS, strict=True), strict=True)),
    )


def pictures(comparison: Comparison) -> list[Shown]:
    """Every picture with all that was asked about it, in the order of the questions."""
    numbers = {entry.system: number for number, entry in enumerate(comparison.entries)}
    graded = [(one, {key(grade.answer): grade for grade in one.grading.grades}) for one in comparison.gradings]
    found: dict[str, dict[tuple[str, Condition], list[Answer]]] = {}
    for answer in comparison.exam.answers:
        if answer.condition.mode == "picture" or len(comparison.conditions) == 1:
            asked = found.setdefault(answer.question.cluster, {})
            asked.setdefault((answer.question.id, answer.condition), []).append(answer)
    made = []
    for name, questions in found.items():
        rows = []
        for (_, condition), answers in sorted(questions.items(), key=lambda one: _order(comparison, one[0])):
            marked = [
                Marked(
                    numbers[one.model],
                    one.model,
                    one.text,
                    tuple((of.grading.title, _mark(of, by, one)) for of, by in graded),
                    one.trace,
                )
                for one in answers
            ]
            rows.append(Asked(answers[0].question, condition, tuple(marked)))
        made.append(Shown(name, inline_picture(rows[0].question), tuple(rows)))
    return made


def _mark(of: GradingFigures, grades: Mapping[Any, Any], answer: Answer) -> str:
    """What a group of graders gave an answer: a letter, a score, or nothing."""
    grade = grades.get(key(answer))
    if not answer.text:
        return ""
    if grade is None or (grade.letter is None and grade.score is None):
        return "" if grade is None else "unscored"
    return grade.letter or f"{grade.score:.2g}"


def _order(comparison: Comparison, name: tuple[str, Condition]) -> tuple[int, int]:
    """Conditions in the task's order, and in each its questions in theirs."""
    index = list(comparison.exam.task.conditions).index(name[1])
    return index, int(name[0]) if name[0].isdecimal() else 0


def _size(counts: Sequence[tuple[str, LetterCounts]]) -> int:
    """How many questions the system that was asked most of them was asked."""
    sizes = [one.graded + one.unscored + one.unanswered + one.ungraded for _, one in counts]
    return max(sizes, default=0)


def _address(path: Path) -> str:
    """An SVG as an address that holds it."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
