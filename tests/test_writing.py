"""A file or folder is written whole or not at all."""

import errno
import shutil
from pathlib import Path

import pytest

from mplug_owl.errors import UserError, WriteError
from mplug_owl.writing import locked, replacing, sole_writer


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


def folder(path: Path, name: str) -> None:
    path.mkdir()
    (path / name).touch()


def test_a_kill_while_the_old_folder_is_removed_leaves_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, remove = tmp_path / "model", shutil.rmtree
    folder(path, "old")
    there = list[list[str]]()

    def removing(old: Path, ignore_errors: bool = False) -> None:
        there.append([file.name for file in path.iterdir() if old != path])
        remove(old, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", removing)
    with replacing(path) as partial:
        folder(partial, "new")
    assert there == [["new"]]
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_makes_no_folder_leaves_the_old_one(tmp_path: Path) -> None:
    folder(tmp_path / "model", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "model"):
        pass
    assert [file.name for file in tmp_path.rglob("*")] == ["model", "old"]


def test_of_two_that_write_a_folder_at_once_the_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace = tmp_path / "model", Path.replace

    def late(partial: Path, target: Path) -> Path:
        if not path.exists():
            monkeypatch.undo()
            folder(path, "quicker")
        return replace(partial, target)

    monkeypatch.setattr(Path, "replace", late)
    with replacing(path) as partial:
        folder(partial, "last")
    assert [file.name for file in tmp_path.rglob("*")] == ["model", "last"]


def test_a_lock_is_held_once_until_its_block_ends(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock) as first, locked(lock, seconds=0.05) as second:
        assert (first, second) == (True, False)
    with pytest.raises(UserError), locked(lock):
        raise UserError("ended by an error")
    with locked(lock) as third:
        assert third


def test_a_file_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = tmp_path / "file" / ".lock"
    with pytest.raises(WriteError, match=r"file/\.lock: cannot be locked \(.+\); choose a folder"), locked(lock):
        pass


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path / "made" / ".lock", "busy"),
        pytest.raises(UserError, match=r"^busy$"),
        sole_writer(tmp_path / "made" / ".lock", "busy"),
    ):
        pass


def test_where_a_file_system_knows_no_locks_nobody_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*unused: object, **also: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", unknown)
    entered = []
    with sole_writer(tmp_path / ".lock", "busy"), sole_writer(tmp_path / ".lock", "busy"):
        entered.append(True)
    assert entered
