"""An exam's report: figures with their intervals, a table that fits, results to compute on, a page without network."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mplug_owl.eval import report
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade
from mplug_owl.eval.statistics import Figures, Share, figures
from tests.eval.quiz import Quiz
from tests.html import Page

COUNT = 10


@pytest.fixture
def grades() -> list[Grade]:
    """Everything correct with the picture but reading card 3, nothing without it, half from descriptions."""
    quiz, found = Quiz(), []
    for condition in quiz.conditions:
        for number, question in enumerate(quiz.questions(condition.split, COUNT, 0)):
            correct = {"picture": number != 3, "none": False, "description": number % 2 == 0}[condition.mode]
            turns = [target for _, target in question.turns[:-1]] + [question.target if correct else "<b>no</b> & none"]
            found.append(Grade(Answer(question, condition, tuple(turns)), correct))
    return found


def test_figures_are_shares_by_ability_and_condition(grades: list[Grade]) -> None:
    cards, odd = figures(grades)
    assert (cards.title, cards.columns) == ("cards", ("shown", "hidden", "described"))
    assert [name for name, _ in cards.rows] == ["reading", "talking", "overall"]
    assert cards.rows[0][1] == (Share(9, 10), Share(0, 10), Share(5, 10))
    assert cards.rows[2][1] == (Share(19, 20), Share(0, 20), Share(10, 20))
    assert odd.rows == (("reading", (Share(9, 10),)), ("overall", (Share(9, 10),)))


def test_the_tables_fit_a_hundred_columns(grades: list[Grade]) -> None:
    console = Console(file=io.StringIO(), width=100)
    report.show(grades, console)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "90.0 [59.6, 98.2]" in shown
    assert "overall" in shown
    assert "odd cards" in shown


def test_so_do_the_widest_figures() -> None:
    every = [Share(correct, 200) for correct in range(201)]
    assert max(len(str(one)) for one in every) == len("99.0 [96.4, 99.7]")
    assert str(Share(200, 200)) == "100 [98.1, 100]"
    assert str(Share(0, 200)) == "0.0 [0.0, 1.9]"


def test_results_are_plain_values(grades: list[Grade], tmp_path: Path) -> None:
    report.write(grades, tmp_path / "out", "small")
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(rows) == len(grades)
    assert sum(row["correct"] for row in rows if row["mode"] == "picture" and row["split"] == "plain") == 19
    assert rows[3]["answer"] == "<b>no</b> & none"
    with Image.open(tmp_path / "out" / "radar.png") as radar:
        assert radar.width > 600
        assert len(radar.convert("RGB").getcolors(2**20)) > 50


def test_the_page_shows_what_was_wrong_and_asks_no_network(grades: list[Grade], tmp_path: Path) -> None:
    report.write(grades, tmp_path, "small")
    text = (tmp_path / "wrong.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    # Card 3 in reading, shown; every second of each ability, described; card 3 of the odd ones; and the radar.
    assert len(page.sources) == 1 + 10 + 1 + 1
    assert "://" not in text
    assert "<b>no</b> & none" in page.words  # as text, never as markup
    assert "90.0 [59.6, 98.2]" in page.words


def test_a_former_exams_radar_is_not_shown(grades: list[Grade], tmp_path: Path) -> None:
    report.write(grades, tmp_path, "small")
    report.write([one for one in grades if one.answer.question.ability == "reading"], tmp_path, "small")
    assert not (tmp_path / "radar.png").exists()
    assert 'class="radar' not in (tmp_path / "wrong.html").read_text()


def test_a_radar_draws_every_column_however_many_there_are(tmp_path: Path) -> None:
    """Nine columns of nine heights: each is in the legend, and no two are drawn alike."""
    columns = tuple(f"system {number}" for number in range(9))
    rows = tuple((name, tuple(Share(10 * number + 10, 100) for number in range(9))) for name in ("ocr", "visual", "dialogue"))
    drawn = report.radar(Figures("systems", columns, rows), tmp_path / "radar.png", "nine")
    (panel,) = drawn.axes
    lines = [line for line in panel.lines if not line.get_label().startswith("_")]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == list(columns)
    assert [line.get_ydata()[0] for line in lines] == pytest.approx([0.1 * number for number in range(1, 10)])
    looks = Counter((line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines)
    assert max(looks.values()) == 1
