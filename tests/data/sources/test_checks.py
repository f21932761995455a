"""What is wrong with a source is found before anybody trains on it."""

from pathlib import Path

import pytest

from mplug_owl import Conversation
from mplug_owl.data.sources import check, checks, read
from mplug_owl.errors import BadSample
from tests.data.sources.conftest import Write
from tests.data.sources.samples import CAPTIONS


def test_bad_pictures_are_found_before_training(write: Write, tmp_path: Path) -> None:
    whole = (tmp_path / "cat.png").read_bytes()
    for name, content in {"empty.png": b"", "words.png": b"not a picture " * 10, "cut.png": whole[: len(whole) - 40]}.items():
        (tmp_path / name).write_bytes(content)
    bad = [{"image": name, "caption": "?"} for name in ("empty.png", "words.png", "cut.png")]
    source = read(str(write("photos.jsonl", [*CAPTIONS, *bad])))
    problems = check(source)
    assert [problem.split(":")[0] for problem in problems] == [f"photos.jsonl, line {line}" for line in (3, 4, 5)]
    for problem, complaint in zip(problems, ("empty (0 bytes)", "words.png: ", "damaged or cut short"), strict=True):
        assert complaint in problem
    assert check(source, decode=False) == problems[:2]


def test_a_huge_picture_is_found_by_its_header(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_PIXELS", 100)
    problems = check(read(str(write("photos.jsonl", CAPTIONS[:1]))), decode=False)
    assert "40 x 30 is more than the 100 pixels allowed" in problems[0]


def test_other_sources_fit_the_door() -> None:
    class Mine:
        name = "mine"

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Conversation:
            raise BadSample(f"mine, {index}: broken")

    assert check(Mine()) == ["mine, 0: broken"]
