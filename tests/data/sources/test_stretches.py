"""Where records are: kept for a large file, mapped by every process, found again while the file is the same."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from mplug_owl.data.sources import read, stretches
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.records import lines
from mplug_owl.data.sources.stretches import Stretch, Stretches
from mplug_owl.errors import UserError
from tests.data.sources.conftest import Write
from tests.data.sources.samples import CAPTIONS


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large."""
    monkeypatch.setattr(stretches, "KEPT_FROM", 0)


def refuse(path: Path) -> Iterator[Stretch]:
    raise AssertionError(f"{path} is gone through a second time")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_large_file_is_gone_through_once_and_anew_when_it_changes(write: Write, cache: Path, name: str) -> None:
    path = write(name, CAPTIONS * 20)
    source = read(str(path))
    assert len(list(cache.glob("*.stretches"))) == 1
    again = read(str(path))
    assert [talk.answers for talk in again] == [talk.answers for talk in source]
    assert len(list(cache.glob("*.stretches"))) == 1
    write(name, CAPTIONS * 21)
    assert len(read(str(path))) == 21 * len(CAPTIONS)
    assert len(list(cache.glob("*.stretches"))) == 2


def test_the_same_file_split_in_another_way_is_kept_apart(write: Write) -> None:
    path = write("a.jsonl", "1\n\n2\n")
    assert list(Stretches(path, "lines", lines)) == [(0, 2, 1), (3, 5, 3)]
    assert list(Stretches(path, "lines", refuse)) == [(0, 2, 1), (3, 5, 3)]
    assert list(Stretches(path, "whole", lambda path: iter([(0, 5, 1)]))) == [(0, 5, 1)]


def test_other_processes_map_what_is_kept_and_get_no_copy(write: Write, cache: Path) -> None:
    records = read_json(write("a.json", CAPTIONS * 500))
    passed = pickle.dumps(records)
    assert len(passed) < 2000
    assert [pickle.loads(passed)[index] for index in (0, 999)] == [records[0], records[999]]
    next(cache.glob("*.stretches")).unlink()
    with pytest.raises(UserError, match=r"\.stretches: No such file.*; it was there when the data was opened"):
        pickle.loads(passed)


@pytest.mark.parametrize("harm", ["cut", "zeros", "empty"])
def test_what_was_half_written_is_written_anew(write: Write, cache: Path, harm: str) -> None:
    path = write("a.json", CAPTIONS)
    expected = list(Stretches(path, "lines", lines))
    kept = next(cache.glob("*.stretches"))
    raw = kept.read_bytes()
    kept.write_bytes({"cut": raw[:-1], "zeros": raw[:-16] + bytes(16), "empty": b""}[harm])
    assert list(Stretches(path, "lines", lines)) == expected
    assert kept.read_bytes() == raw


def test_without_room_on_the_disk_the_rows_are_held_in_memory(
    write: Write, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    path = write("a.json", CAPTIONS * 10)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        records = read_json(path)
    assert list(cache.iterdir()) == []
    assert pickle.loads(pickle.dumps(records))[3] == (CAPTIONS * 10)[3]


def test_small_files_leave_nothing_in_the_cache(write: Write, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "KEPT_FROM", 2**20)
    path = write("a.json", CAPTIONS)
    assert [records[0] for records in (read_json(path),)] == [CAPTIONS[0]]
    assert not list(cache.glob("*.stretches"))


def test_a_damaged_large_list_keeps_nothing(write: Write, cache: Path) -> None:
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_json(write("a.json", json.dumps(CAPTIONS)[:-1]))
    assert list(cache.iterdir()) == []


def test_a_record_longer_than_the_rows_can_say_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"a record of 4,294,967,296 bytes; 4 GiB"):
        Stretches(write("a.json", "[1]"), "list", lambda path: iter([(0, 2**32, 1)]))


def test_rows_take_16_bytes(write: Write) -> None:
    found = Stretches(write("a.jsonl", "1\n" * 100), "lines", lines)
    assert found.kept is not None
    assert (found.rows.nbytes, found.kept.stat().st_size) == (1600, 1616)
