"""Folders of pictures: words beside each, or in one table."""

import json
import pickle
from pathlib import Path

import pytest

from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.layouts import every, jpeg, parquet


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
    with pytest.raises(UserError, match="no pictures in the folder"):
        read(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="a folder; expected a file, or a folder of pictures"):
        read(str(tmp_path))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match="a file; expected a folder of pictures"):
        read(f"folder:{tmp_path}/a.jpg")


def split(folder: Path, name: str) -> None:
    """One split of an image folder, as Hugging Face's datasets know it."""
    (folder / name).mkdir()
    (folder / name / "1.jpg").write_bytes(jpeg())
    (folder / name / "metadata.jsonl").write_text(json.dumps({"file_name": "1.jpg", "text": f"of {name}"}))


def test_an_image_folder_with_a_table_in_each_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split(tmp_path, "test")
    assert read(str(tmp_path))[0].answers == ("of test",)
    split(tmp_path, "validation")
    with pytest.raises(UserError, match=r"has the splits validation, test; name one, folder:.*/validation$"):
        read(str(tmp_path))
    split(tmp_path, "train")
    source = read(str(tmp_path))
    assert [(talk.pictures[0].source, talk.answers[0]) for talk in every(source)] == [(tmp_path / "train/1.jpg", "of train")]
    others = f"folder:{tmp_path}/validation, folder:{tmp_path}/test"
    assert capsys.readouterr().err == f"{tmp_path}: train is read, and not {others}\n"
    assert read(f"folder:{tmp_path}/test")[0].answers == ("of test",)


def test_a_folder_with_a_table_of_parquet(photos: Path) -> None:
    parquet(photos / "metadata.parquet", [{"file_name": "b.jpg", "text": "a cat"}])
    assert read(f"folder:{photos}")[0].pictures[0].source == photos / "b.jpg"


def test_pictures_after_a_link_to_a_folder_are_found_once(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (photos / "more" / "round").symlink_to(photos)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "d.png").write_bytes(jpeg(3))
    (elsewhere / "d.txt").write_text("linked")
    (photos / "link").symlink_to(elsewhere)
    assert [talk.name for talk in every(read(str(photos)))] == ["a.JPG", "b.jpg", "link/d.png", "more/c.jpeg"]


def test_what_may_not_be_read_is_said(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read(str(photos))

    def refused(*how: object) -> None:
        raise PermissionError(13, "Permission denied", str(photos / "more"))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(BadSample, match=r"^a\.JPG: a\.txt cannot be read \(Permission denied\)$"):
        source[0]
    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(UserError, match=r"more: cannot be read \(Permission denied\)"):
        read(f"folder:{photos}")
