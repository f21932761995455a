"""The page of the whole story, made of plain values: all of it is on the page, nothing outside it is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from mplug_owl.eval.statistics import Figures, Share
from mplug_owl.experiments.story import Command, Exchange, Stage, StageAnswer, Story, bars, curve, write
from mplug_owl.train.trainable import Part
from tests.html import Page
from tests.tiny import picture

PARTS = (Part("vision", "f_V", "full", 801_152, 801_152), Part("language", "f_L", "lora", 2_100_000, 98_304))


def figures(shown: int, hidden: int) -> Figures:
    columns = ("with the picture", "without")
    return Figures(
        "scenes", columns, tuple((name, (Share(shown, 20), Share(hidden, 20))) for name in ("ocr", "visual", "overall"))
    )


STORY = Story(
    title="The little <owl>",
    lede="Four million parameters & a drawn world.",
    facts=[("4.1 M", "parameters"), ("9 min", "on two cores")],
    pictures=picture(1, 400, 120),
    about_pictures="Some of its world.",
    stages=[
        Stage("before", "Strangers", "Nobody has learned anything.", [], []),
        Stage("stage 0", "Words", "It learns to write.", PARTS, [(1, 6.2), (10, 3.1), (20, 1.4)]),
        Stage("stage 1", "Eyes", "It learns to see.", PARTS, [(1, 2.0), (20, 0.31)], figures(2, 2)),
        Stage("stage 2", "Answers", "It learns to answer.", PARTS, [], figures(18, 5)),
    ],
    exchanges=[
        Exchange(
            "ocr",
            picture(2),
            "What word is written?",
            "PLUM",
            [StageAnswer("stage 1", "A plum.", False), StageAnswer("stage 2", "PLUM", True)],
            earlier=["How many things are there?"],
        )
    ],
    commands=[Command("Talk with it", "owl chat runs/demo/instruct")],
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(STORY, tmp_path_factory.mktemp("story") / "new" / "story.html").read_text("utf-8")


def test_all_of_it_is_on_the_page(text: str) -> None:
    page = Page(text)
    assert page.open == []
    for words in (
        "The little <owl>",
        "Four million parameters & a drawn world.",
        "9 min",
        "801,152",
        "It learns to see.",
        "LoRA",
        "90.0 [69.9, 97.2]",
        "PLUM",
        "How many things are there?",
        "owl chat runs/demo/instruct",
    ):
        assert words in page.words, words
    assert text.count("<polyline") == 2  # the last has no losses, the first no lessons
    assert text.count("<td>together</td>") == 3
    assert text.count('class="bar"') == 2 * 3


def test_it_asks_no_network(text: str) -> None:
    page = Page(text)
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "://" not in text
    assert "<script" not in text


def test_a_story_may_be_short(tmp_path: Path) -> None:
    short = replace(STORY, stages=STORY.stages[:2], exchanges=(), facts=(), pictures=None, commands=())
    page = Page(write(short, tmp_path / "story.html").read_text("utf-8"))
    assert page.open == []
    assert "What it can do" not in page.words
    assert "Ask it" not in page.words


def test_bars_are_percents_and_darken_stage_by_stage() -> None:
    found = bars(STORY.stages[2:])
    assert list(found) == ["ocr", "visual", "overall"]
    early, late = found["ocr"]
    assert (early.length, early.blind, early.strength) == (10, 10, 50)
    assert (late.length, late.blind, late.strength) == (90, 25, 100)
    assert late.low < 90 < late.high


def test_a_curve_keeps_inside_its_frame_and_falls_where_the_loss_does() -> None:
    drawn = curve([(1, 6.2), (10, 3.1), (20, 1.55)])
    places = [tuple(map(float, point.split(","))) for point in drawn.line.split()]
    assert [x for x, _ in places] == [30, pytest.approx(30 + 282 * 9 / 19, abs=0.1), 312]
    assert [label for _, label in drawn.grid] == ["0", "2", "4", "6", "8"]
    assert drawn.grid[0][0] == 130
    heights = [130 - y for _, y in places]
    assert heights == pytest.approx([93, 46.5, 23.25], abs=0.1)
    assert curve([(1, 2.0)]) is None
    assert curve([(1, 0.0), (2, 0.0)]) is not None
