"""`owl demo` told in a few steps: every stage runs and everything it names is there."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.errors import UserError
from mplug_owl.experiments import demo
from mplug_owl.scenes import scenes


def test_the_story_is_told_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EXAMINED", 1)
    out, console = tmp_path / "demo", Console(file=io.StringIO(), width=100)
    (out / "data").mkdir(parents=True)
    for left in ("data/captions.jsonl", "world.png"):  # what an earlier one left is replaced
        (out / left).write_text("")
    demo.demo(out, 0.01, console=console)
    told = console.file.getvalue()
    for words in (
        "A small world",
        "stage 1",
        "stage 2",
        "who learns",
        "scenes never seen",
        "without",
        "done",
        "owl eval",
        "0:00:0",
    ):
        assert words in told
    assert (out / "world.png").stat().st_size > 10_000
    page = (out / "story.html").read_text("utf-8")
    assert page.count("data:image/png") >= 7  # the sheet, and a scene for every ability
    assert not re.search(r'(?:src|href)="https?://', page)
    for run in ("pretrain", "instruct"):
        assert (out / run / "model" / "config.json").exists()
        assert (out / run / "checkpoints").is_dir()


def test_a_contact_sheet_has_a_place_for_every_scene() -> None:
    assert demo.contact_sheet(list(scenes(9, 1)), columns=4).size == (4 * 120 + 8, 3 * 120 + 8)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else than a demo; choose another --out"):
        demo.demo(tmp_path, 0.01, console=Console(file=io.StringIO()))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
