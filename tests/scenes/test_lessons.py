"""Open answers as a source; the other lessons are tested with the scenes."""

import json
from pathlib import Path

import pytest

from mplug_owl.errors import UserError
from mplug_owl.scenes.lessons import open_lessons
from mplug_owl.scenes.world import scene

ROWS = (
    {"scene": 7, "prompt": "Sing of it.", "answer": "La."},
    {"scene": 8, "prompt": "Praise it.", "answer": "Oh!", "kept": False},
    {"scene": 9, "prompt": "Praise it.", "answer": "Ah!", "kept": True},
)


def written(folder: Path, *lines: str) -> str:
    file = folder / "open.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return f"open:{file}"


def test_a_line_is_a_prompt_about_its_scene_and_its_answer(tmp_path: Path) -> None:
    source = open_lessons(written(tmp_path, *map(json.dumps, ROWS)))
    assert len(source) == 2
    assert [[message.text for message in source[index].messages] for index in (0, 1)] == [
        ["Sing of it.", "La."],
        ["Praise it.", "Ah!"],
    ]
    (picture,) = source[1].pictures
    assert picture.source.tobytes() == scene(9).draw().tobytes()
    assert source.name.startswith("scenes:open:")


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"scene": "7", "prompt": "a", "answer": "b"}', '{"scene": 7, "prompt": "a"}']
)
def test_a_line_that_is_otherwise_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"open.jsonl, line 2: expected scene"):
        open_lessons(written(tmp_path, json.dumps(ROWS[0]), line))


def test_a_file_that_is_not_there_or_holds_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        open_lessons(f"open:{tmp_path / 'none.jsonl'}")
    with pytest.raises(UserError, match="no answers in it"):
        open_lessons(written(tmp_path, json.dumps(ROWS[1])))
    with pytest.raises(UserError, match=r"or scenes:open:FILE\.jsonl"):
        open_lessons("opened")
    with pytest.raises(UserError, match=r"scenes:text:²: expected scenes:LESSON"):
        open_lessons("text:²")


def test_a_line_ends_where_json_lines_do(tmp_path: Path) -> None:
    """Not at other characters that Python takes for a line's end; a byte order mark and empty lines are nothing."""
    row = {**ROWS[0], "answer": "La,\u2028la,\x85la."}
    source = open_lessons(written(tmp_path, "\ufeff" + json.dumps(row, ensure_ascii=False), "", json.dumps(ROWS[2]), ""))
    assert [source[index].answers for index in range(len(source))] == [("La,\u2028la,\x85la.",), ("Ah!",)]
