"""Where pictures are: beside the data, below a root, in base64; whatever a name looks like."""

import base64
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.location import Location, shortened
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.conftest import Write
from tests.tiny import picture


@pytest.fixture
def location(tmp_path: Path) -> Location:
    (tmp_path / "images").mkdir()
    (tmp_path / "cat.png").touch()
    (tmp_path / "images" / "a dog é.png").touch()
    return Location(tmp_path, "a.jsonl, line 7")


def png() -> bytes:
    picture(0).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["cat.png", "./cat.png", "images/../cat.png", " cat.png ", "images\\..\\cat.png"])
def test_names_of_one_file(location: Location, name: str) -> None:
    assert location.picture(name).resolve() == location.folder / "cat.png"


def test_absolute_names_and_addresses_of_files(location: Location) -> None:
    file = location.folder / "images" / "a dog é.png"
    for name in (str(file), file.as_uri(), "a dog é.png", {"path": "a dog é.png", "bytes": None}):
        assert location.picture(name) == file


def test_a_root_comes_first(location: Location, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    root.mkdir()
    rooted = Location(tmp_path, "a.jsonl, line 7", root)
    assert rooted.picture("cat.png") == tmp_path / "cat.png"
    (root / "cat.png").touch()
    assert rooted.picture("cat.png") == root / "cat.png"


def test_the_door_takes_a_root(write: Write, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "cat.png").rename(tmp_path / "photos" / "cat.png")
    path = write("a.jsonl", [{"image": "cat.png", "caption": "a cat"}])
    assert check(read(str(path)))[0].endswith("; --image-root names the folder where pictures are")
    for root in (tmp_path / "photos", str(tmp_path / "photos")):
        assert check(read(str(path), root)) == []
    with pytest.raises(UserError, match=r"nowhere: no such folder; --image-root names the folder"):
        read(str(path), tmp_path / "nowhere")


def test_base64_is_a_picture(location: Location) -> None:
    written = base64.b64encode(png()).decode()
    for text in (written, f"data:image/png;base64,{written}", "\n".join((written[:60], written[60:]))):
        assert location.picture(text) == png()
    assert location.picture({"bytes": png(), "path": "gone.png"}) == png()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("gone.png", "no picture gone.png; looked for "),
        ("/gone.png", "no picture /gone.png; looked for /gone.png"),
        ("A" * 200_000, "no picture AAA"),
        ("x" * 5000 + ".png", "no picture xxx"),
        ("a\0b.png", "no picture a\N{REPLACEMENT CHARACTER}b.png"),
        ("~nobody-of-this-name/a.png", "no picture ~nobody-of-this-name/a.png"),
        ("~", "no picture ~"),
        ("\ud800.png", "no picture \N{REPLACEMENT CHARACTER}.png"),
        ("images", "no picture images; looked for"),
        ("file://[a/b.png", "no picture file://[a/b.png (Invalid IPv6 URL)"),
        ("http://example.com/a.png", "pictures are read from files, not fetched"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,?", "damaged base64"),
        ("", "an image is empty text; expected a file's path"),
        (None, "an image is null; expected a file's path"),
        (7, "an image is a number; expected a file's path"),
        (True, "an image is true or false; expected a file's path"),
        ({}, "an image is an object; expected a file's path"),
        ({"bytes": None, "path": None}, "an image is null; expected a file's path"),
    ],
)
def test_what_is_no_picture(location: Location, name: object, complaint: str) -> None:
    with pytest.raises(BadSample) as error:
        location.picture(name)
    assert str(error.value).startswith("a.jsonl, line 7: ")
    assert complaint in str(error.value)
    assert len(str(error.value)) < 1000
    str(error.value).encode()


def test_a_folder_that_may_not_be_entered(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is played: whoever tests as root may enter everything."""

    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(BadSample, match="Permission denied"):
        location.picture("images/a dog é.png")


def test_home_is_expanded_and_other_tildes_are_letters(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(location.folder))
    assert location.picture("~/cat.png") == location.folder / "cat.png"
    (location.folder / "~cat.png").touch()
    assert location.picture("~cat.png") == location.folder / "~cat.png"


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_a_name_that_is_no_file_is_said_in_one_printable_line(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    location = Location(tmp_path_factory.getbasetemp() / "nowhere", "a.jsonl, line 7")
    with pytest.raises(BadSample) as error:
        location.picture(name)
    assert "\n" not in str(error.value)
    str(error.value).encode()


def test_what_is_shown_is_short() -> None:
    assert shortened("a\x1b[2Jb") == "a\N{REPLACEMENT CHARACTER}[2Jb"
    assert len(shortened("a" * 10_000)) < 300
