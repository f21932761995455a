"""How an answer came about: kept in answers.jsonl, restored, counted once, and shown as text."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.chat.trace import Call, TracedAnswer, trace_of
from mplug_owl.errors import UserError
from mplug_owl.eval import traces
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.answers_file import AnswersFile
from mplug_owl.eval.trace_rows import as_rows, with_trace
from mplug_owl.eval.traces import CallerCost, Traced
from tests.eval.quiz import CONDITIONS, question
from tests.html import Page

CALLS = (
    Call("read", "read: picture-1", "<i>OPEN</i>", 0.5),
    Call("planner", "what next?", "hm", 1.0, fault="no list"),
    Call("read", "read: picture-1", "<i>OPEN</i>", 0.0, known=True),
    Call("language model", "so what?", "open", 2.0),
)


def test_an_answer_with_a_trace_is_its_words() -> None:
    answer = TracedAnswer("open", CALLS)
    assert answer == "open"
    assert (hash(answer), f"{answer}!", trace_of(answer), trace_of("open")) == (hash("open"), "open!", CALLS, ())


def test_a_trace_is_kept_and_restored(tmp_path: Path) -> None:
    file = AnswersFile(tmp_path / "answers.jsonl", "quiz", "m")
    asked, plain = question(0), question(1)
    file.add(asked, CONDITIONS[0], [TracedAnswer("open", CALLS)])
    file.add(plain, CONDITIONS[0], ["shut"])
    again = AnswersFile(tmp_path / "answers.jsonl", "quiz", "m")
    assert trace_of(again.known(asked, CONDITIONS[0], 0) or "") == CALLS
    assert trace_of(again.known(plain, CONDITIONS[0], 0) or "") == ()
    assert '"trace"' not in (tmp_path / "answers.jsonl").read_text().splitlines()[1]


def test_a_damaged_trace_is_named() -> None:
    assert with_trace("open", as_rows("open"), "line 3") == "open"
    for damaged in ([1], [{"to": "read"}], 3):
        with pytest.raises(UserError, match="line 3: trace is damaged"):
            with_trace("open", {"trace": damaged}, "line 3")


def test_what_was_asked_once_counts_once_and_what_was_known_was_no_call() -> None:
    talk = replace(question(0, turns=2), image="card")
    again = replace(question(0), image="card")
    first, second = TracedAnswer("open", CALLS), TracedAnswer("late", CALLS[:1])
    answers = [Answer(talk, CONDITIONS[0], (first, second), "m"), Answer(again, CONDITIONS[0], (first,), "m")]
    found = [one for _, one in traces.traced(answers)]
    assert [one.answer for one in found] == ["open", "late"]
    assert traces.costs(found) == [
        CallerCost("read", 2, 1.0, 0, 1),
        CallerCost("planner", 1, 1.0, 1, 0),
        CallerCost("language model", 1, 2.0, 0, 0),
    ]
    assert Traced("", "", "", CALLS).seconds == 3.5


def test_costs_are_shown_where_there_are_traces(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    plain = [Answer(question(0), CONDITIONS[0], ("open",), "m")]
    traces.show(plain, console)
    assert traces.write(plain, tmp_path, "m") is None
    assert console.file.getvalue() == ""
    answers = [Answer(question(0), CONDITIONS[0], (TracedAnswer("open", CALLS),), "m")]
    traces.show(answers, console)
    assert "What 1 answer took: 3.50 seconds each" in console.file.getvalue()
    path = traces.write(answers, tmp_path, "m & n")
    assert path is not None
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    assert "://" not in text
    for words in ("<i>OPEN</i>", "so what?", "not understood: no list", "known before", "m & n"):
        assert words in page.words
