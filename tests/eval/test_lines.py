"""Files of JSON lines: whatever cuts them off, the lines before stay, and the next one is whole."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mplug_owl.errors import UserError, WriteError
from mplug_owl.eval.lines import AppendedLines, read_lines, text


def rows(path: Path) -> list[dict]:
    return [row for _, row in read_lines(path)]


def test_a_file_cut_anywhere_keeps_its_whole_lines_and_takes_more(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "rows.jsonl"
    lines = AppendedLines(path)
    for number in range(3):
        lines.append({"number": number, "words": "ä\n\u2028 \ud800"})
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        there = [row["number"] for row in rows(path)]
        assert there in (list(range(kept)), list(range(kept + 1)))  # whole but for its end
        AppendedLines(path).append({"number": 9})
        assert [row["number"] for row in rows(path)] == [*there, 9]  # what was read before is read after


def test_a_last_line_that_an_editor_saved_without_an_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    path.write_text('{"question_id": "1", "grade": "A"}\n{"question_id": "2", "grade": "B"}')
    AppendedLines(path)
    assert [row["grade"] for row in rows(path)] == ["A", "B"]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    lines = AppendedLines(tmp_path / "rows.jsonl", sync_seconds=60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: lines.append({"number": number, "long": "x" * 10_000}), range(64)))
    assert sorted(row["number"] for row in rows(tmp_path / "rows.jsonl")) == list(range(64))


@pytest.mark.parametrize(
    ("content", "problem"), [('{"a": 1}\n{"a"\n{"a": 2}\n', "line 2: no JSON"), ("[1]\n", "line 1: a list")]
)
def test_a_damaged_line_is_named(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UserError, match=problem):
        rows(tmp_path / "rows.jsonl")


def test_no_file_and_a_field_that_is_no_text_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        rows(tmp_path / "none.jsonl")
    assert text({"question_id": 7}, "question_id", "here") == "7"
    for row in ({}, {"answer": 7}, {"answer": None}):
        with pytest.raises(UserError, match="here: answer is"):
            text(row, "answer", "here")


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    lines = AppendedLines(path)
    lines.append({"number": 0})
    real = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            self.file.close()

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def write(self, line: bytes) -> int:
            self.file.write(line[:5])
            self.file.flush()
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args, **kwargs: Full(real(self, *args, **kwargs)))
        with pytest.raises(WriteError, match="No space left"):
            lines.append({"number": 1})
    lines.append({"number": 2})
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]
