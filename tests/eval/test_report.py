"""An exam's report: figures with their intervals, a table that fits, results to compute on, a page without network."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mplug_owl.eval import report
from mplug_owl.eval.answer import Answered
from mplug_owl.eval.report import Share
from tests.eval.quiz import Quiz
from tests.html import Page

COUNT = 10


@pytest.fixture
def answered() -> list[Answered]:
    """Everything right with the picture but reading card 3, nothing without it, half when told."""
    quiz, found = Quiz(), []
    for sitting in quiz.sittings:
        for number, problem in enumerate(quiz.problems(sitting.split, COUNT, 0)):
            right = {"picture": number != 3, "none": False, "told": number % 2 == 0}[sitting.mode]
            said = [answer for _, answer in problem.turns[:-1]] + [problem.right if right else "<b>no</b> & none"]
            found.append(Answered(problem, sitting, tuple(said), right))
    return found


def test_figures_are_shares_by_ability_and_sitting(answered: list[Answered]) -> None:
    cards, odd = report.figures(answered)
    assert (cards.title, cards.columns) == ("cards", ("shown", "hidden", "told"))
    assert [name for name, _ in cards.rows] == ["reading", "talking", "overall"]
    assert cards.rows[0][1] == (Share(9, 10), Share(0, 10), Share(5, 10))
    assert cards.rows[2][1] == (Share(19, 20), Share(0, 20), Share(10, 20))
    assert odd.rows == (("reading", (Share(9, 10),)), ("overall", (Share(9, 10),)))


def test_the_tables_fit_a_hundred_columns(answered: list[Answered]) -> None:
    console = Console(file=io.StringIO(), width=100)
    report.show(answered, console)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "90.0 [59.6, 98.2]" in shown
    assert "overall" in shown
    assert "odd cards" in shown


def test_so_do_the_widest_figures() -> None:
    every = [Share(right, 200) for right in range(201)]
    assert max(len(str(one)) for one in every) == len("99.0 [96.4, 99.7]")
    assert str(Share(200, 200)) == "100 [98.1, 100]"
    assert str(Share(0, 200)) == "0.0 [0.0, 1.9]"


def test_results_are_plain_values(answered: list[Answered], tmp_path: Path) -> None:
    report.write(answered, tmp_path / "out", "small")
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(rows) == len(answered)
    assert sum(row["correct"] for row in rows if row["mode"] == "picture" and row["split"] == "plain") == 19
    assert rows[3]["said"] == "<b>no</b> & none"
    with Image.open(tmp_path / "out" / "radar.png") as radar:
        assert radar.width > 600
        assert len(radar.convert("RGB").getcolors(2**20)) > 50


def test_the_page_shows_what_was_wrong_and_asks_no_network(answered: list[Answered], tmp_path: Path) -> None:
    report.write(answered, tmp_path, "small")
    text = (tmp_path / "wrong.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    # Card 3 in reading, shown; every second of each ability, told; card 3 of the odd ones; and the radar.
    assert len(page.sources) == 1 + 10 + 1 + 1
    assert "://" not in text
    assert "<b>no</b> & none" in page.words  # as text, never as markup
    assert "90.0 [59.6, 98.2]" in page.words
