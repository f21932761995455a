"""`owl demo` told in a few steps: every stage runs and everything it names is there."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl import demo


def test_the_story_is_told_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PICTURES", 40)
    monkeypatch.setattr(demo, "UNSEEN", 3)
    out, console = tmp_path / "demo", Console(file=io.StringIO(), width=100)
    (out / "data").mkdir(parents=True)
    for left in ("data/captions.jsonl", "curves.png"):  # what an earlier one left is replaced
        (out / left).write_text("")
    demo.demo(out, 0.004, console)
    told = console.file.getvalue()
    for stage in ("stage 0", "stage 1", "stage 2", "A conversation", "done"):
        assert stage in told
    assert "On 3 pictures it has never seen" in told
    for name in ("pictures.png", "curves.png", "language", "pretrain", "instruct"):
        assert (out / name).exists()
    assert (out / "curves.png").stat().st_size > 1000


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else than a demo; choose another --out"):
        demo.demo(tmp_path, 0.01, Console(file=io.StringIO()))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
