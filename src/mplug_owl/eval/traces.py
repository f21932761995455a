"""How answers came about, where several had a part in them: counted, and shown on a page."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mplug_owl.chat.trace import Call, trace_of
from mplug_owl.conversation import Picture
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.task import Question
from mplug_owl.model.images import open_image
from mplug_owl.page.render import inline_photograph, render
from mplug_owl.writing import replacing, writing

PAGE = "traces.html"


@dataclass(frozen=True)
class CallerCost:
    """What one expert or model took in an exam.

    Args:
        to: Its name.
        calls: How often it was called; what was known from an earlier answer is not counted.
        seconds: All calls together, by the clock.
        faults: Replies that could not be followed.
        known: How often its reply was known.
    """

    to: str
    calls: int
    seconds: float
    faults: int
    known: int


@dataclass(frozen=True)
class Traced:
    """One answer to one turn, and the calls that led to it."""

    asked: str
    condition: str
    answer: str
    trace: tuple[Call, ...]

    @property
    def seconds(self) -> float:
        """All calls together."""
        return sum(call.seconds for call in self.trace)


def traced(answers: Iterable[Answer]) -> Iterator[tuple[Question, Traced]]:
    """Every turn that was asked, once, with its question: what questions share is asked once."""
    seen: set[tuple[str, tuple[str, ...], str]] = set()
    for answer in answers:
        for turn, words in enumerate(answer.turns):
            key = (answer.condition.mode, answer.question.prompt(turn), answer.model)
            if key not in seen and trace_of(words):
                seen.add(key)
                one = Traced(answer.question.turns[turn][0], answer.condition.title, str(words), trace_of(words))
                yield answer.question, one


def costs(found: Sequence[Traced]) -> list[CallerCost]:
    """What each expert and model took, in the order in which they were first called."""
    calls = [call for one in found for call in one.trace]
    return [
        CallerCost(
            to,
            sum(not call.known for call in calls if call.to == to),
            sum(call.seconds for call in calls if call.to == to),
            sum(bool(call.fault) for call in calls if call.to == to),
            sum(call.known for call in calls if call.to == to),
        )
        for to in dict.fromkeys(call.to for call in calls)
    ]


def show(answers: Sequence[Answer], console: Console) -> None:
    """What the answers took on a screen; nothing where none has a trace."""
    found = [one for _, one in traced(answers)]
    if not found:
        return
    table = Table(highlight=False)
    table.add_column("who was called")
    for column in ("calls", "an answer", "seconds", "seconds a call", "not understood", "known before"):
        table.add_column(column, justify="right")
    for cost in costs(found):
        table.add_row(cost.to, *cells(cost, len(found)))
    seconds = sum(one.seconds for one in found) / len(found)
    console.print(
        f"What {len(found)} answer{'s'[: len(found) != 1]} took: {seconds:.2f} seconds each", style="bold", highlight=False
    )
    console.print(table)


def cells(cost: CallerCost, answers: int) -> tuple[str, ...]:
    """A caller's row: calls, calls an answer, seconds, seconds a call, faults, known."""
    each = f"{cost.seconds / cost.calls:.2f}" if cost.calls else "–"
    a_share = f"{cost.calls / answers:.2f}"
    return (str(cost.calls), a_share, f"{cost.seconds:.1f}", each, str(cost.faults), str(cost.known))


def write(answers: Sequence[Answer], folder: Path, name: str) -> Path | None:
    """The page of all traces into an exam's folder; None where there is none. `name` is the model's."""
    found = list(traced(answers))
    if not found:
        return None
    pictures: dict[str, tuple[str | None, list[Traced]]] = {}
    for question, one in found:
        if question.cluster not in pictures:
            pictures[question.cluster] = (inline_picture(question), [])
        pictures[question.cluster][1].append(one)
    rows = [one for _, one in found]
    page = render(
        "eval/traces.html.jinja",
        title=f"How {name} answered",
        answers=len(rows),
        seconds=sum(one.seconds for one in rows) / len(rows),
        costs=[(cost, cells(cost, len(rows))) for cost in costs(rows)],
        pictures=pictures,
    )
    with writing(folder / PAGE), replacing(folder / PAGE) as file:
        file.write_text(page, encoding="utf-8")
    return folder / PAGE


def inline_picture(question: Question) -> str | None:
    """The picture that a question is about, as an address that holds it; None where there is none."""
    if question.picture is not None:
        return inline_photograph(question.picture())
    for part in (part for turn in question.parts for part in turn):
        if isinstance(part, Picture):
            return inline_photograph(open_image(part.source))
    return None
