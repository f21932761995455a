"""`owl demo` told in a few steps: every stage runs and everything it names is there."""

import io
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mplug_owl.errors import UserError, WriteError
from mplug_owl.experiments import demo, minutes
from mplug_owl.scenes import scenes
from mplug_owl.train.reporter import Progress


def test_the_story_is_told_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EXAMINED", 3)
    monkeypatch.setattr("mplug_owl.data.survey.LOOKED_FOR_CUTS", 10)
    lessons = [replace(lesson, recipe=partial(replace, lesson.recipe(), batch=4, micro_batch=2)) for lesson in demo.LESSONS]
    monkeypatch.setattr(demo, "LESSONS", lessons)
    monkeypatch.setattr(minutes, "TIMED", 3)
    monkeypatch.setattr(minutes, "FEWEST", {"pretrain": 5, "instruct": 2})
    out, console = tmp_path / "demo", Console(file=io.StringIO(), width=100)
    (out / "data").mkdir(parents=True)
    for left in ("data/captions.jsonl", "world.png"):  # what an earlier one left is replaced
        (out / left).write_text("")
    demo.demo(out, minutes=0.001, console=console)
    told = console.file.getvalue()
    for words in ("A small world", "stage 1", "stage 2", "who learns", "scenes never seen", "without", "done", "owl eval"):
        assert words in told
    assert "Too little time for this machine" in told
    for words in ("tiny.pretrain: step 5/5", "tiny.instruct: step 2/2"):  # the fewest that make sense
        assert words in told
    assert not (out / "timing").exists()
    assert (out / "world.png").stat().st_size > 10_000
    page = (out / "story.html").read_text("utf-8")
    assert page.count("data:image/png") == 13  # the sheet, and scenes of two questions of every ability
    assert page.count("<dt>stage 2</dt>") == 12
    assert not re.search(r'(?:src|href)="https?://', page)
    for run in ("pretrain", "instruct"):
        assert (out / run / "model" / "config.json").exists()
        assert (out / run / "checkpoints").is_dir()


def test_the_time_left_is_that_of_both_stages() -> None:
    console = Console(file=io.StringIO(), width=200)
    screen = demo._Screen(console, later=30)
    for step, left in ((1, 9.0), (10, 0.0)):
        screen.progress(Progress(step, 10, loss=1.0, lr=1e-3, tokens_per_second=1.0, seconds_left=left))
    first, last = console.file.getvalue().splitlines()
    assert "0:00:39 left" in first
    assert "0:00:30 left" in last


def test_answers_are_given_by_one_thread() -> None:
    torch.set_num_threads(2)
    with demo.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_contact_sheet_has_a_place_for_every_scene() -> None:
    assert demo.contact_sheet(list(scenes(9, 1)), columns=4).size == (4 * 120 + 8, 3 * 120 + 8)


@pytest.mark.parametrize(
    ("mine", "beside"),
    [
        ("thesis.txt", ()),
        ("thesis.txt", ("captions.jsonl",)),
        ("data/thesis.txt", ("captions.jsonl",)),
        ("eval-it/thesis.txt", ()),
        ("data/captions.jsonl", ("chats.jsonl",)),
    ],
)
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, mine: str, beside: tuple[str, ...]) -> None:
    """Not only where nothing in it looks like a demo's: many a project has its captions in data/."""
    (tmp_path / "data").mkdir()
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    for name, words in ((mine, "years of work"), *((f"data/{name}", "") for name in beside)):
        (tmp_path / name).write_text(words)
    with pytest.raises(UserError, match="holds something else than a demo; choose another --out"):
        demo.demo(tmp_path, 0.01, console=Console(file=io.StringIO()))
    assert (tmp_path / mine).read_text() == "years of work"


def test_what_cannot_be_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.txt: holds something else than a demo"):
        demo.demo(tmp_path / "thesis.txt", 0.01, console=Console(file=io.StringIO()))
    with pytest.raises(WriteError, match="demo could not be written"):
        demo.demo(tmp_path / "thesis.txt" / "demo", 0.01, console=Console(file=io.StringIO()))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
