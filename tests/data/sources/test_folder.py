"""Folders of pictures: words beside each, or in one table."""

import pickle
from pathlib import Path

import pytest

from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from tests.data.sources.layouts import every, jpeg


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for seed, name in enumerate(("b.jpg", "a.JPG", "more/c.jpeg")):
        (tmp_path / name).write_bytes(jpeg(seed))
        (tmp_path / name).with_suffix(".txt").write_text(f"words of {name}\n")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def test_a_folder_with_a_text_beside_each_picture(photos: Path) -> None:
    for spec in (str(photos), f"folder:{photos}"):
        source = read(spec)
        assert (source.name, check(source)) == (f"folder:{photos}", [])
        assert every(source) == [caption(photos / name, f"words of {name}", name) for name in ("a.JPG", "b.jpg", "more/c.jpeg")]
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    (photos / "a.txt").unlink()
    (photos / "b.txt").write_bytes(b"\xff")
    assert check(source) == ["a.JPG: no a.txt beside it", "b.txt: not UTF-8 text (byte 0xff at 0)"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", "image,caption\nb.jpg,a cat\nmore/c.jpeg,a dog\n"),
        ("captions.txt", "image,caption\nb.jpg,a cat\nmore/c.jpeg,a dog\n"),
        ("captions.jsonl", '{"image": "b.jpg", "caption": "a cat"}\n{"image": "more/c.jpeg", "caption": "a dog"}\n'),
        ("metadata.csv", "file_name,text\nb.jpg,a cat\nmore/c.jpeg,a dog\n"),
        ("metadata.jsonl", '{"file_name": "b.jpg", "text": "a cat"}\n{"file_name": "more/c.jpeg", "text": "a dog"}\n'),
    ],
)
def test_a_folder_with_a_table(photos: Path, name: str, content: str) -> None:
    (photos / name).write_text(content)
    source = read(str(photos))
    assert [(talk.pictures[0].source, talk.answers[0]) for talk in every(source)] == [
        (photos / "b.jpg", "a cat"),
        (photos / "more" / "c.jpeg", "a dog"),
    ]
    assert source[0].name.startswith(f"{name}, line ")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures in the folder"):
        read(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="a folder; expected a file, or a folder of pictures"):
        read(str(tmp_path))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="a file; expected a folder of pictures"):
        read(f"folder:{tmp_path}/a.jpg")
