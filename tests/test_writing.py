"""A file or folder is written whole or not at all."""

from pathlib import Path

import pytest

from mplug_owl.writing import replacing


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_so_does_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("first", "second"):
        with replacing(path) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_fails_leaves_the_old_one_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        raise error

    with pytest.raises(type(error)), replacing(path) as partial:
        fail(partial)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with replacing(path) as partial:
        pass_over = partial
        partial.mkdir()
    pass_over.mkdir()
    (pass_over / "half").touch()
    with replacing(path) as partial:
        partial.mkdir()
    assert list(path.iterdir()) == []
    assert list(tmp_path.iterdir()) == [path]
