"""The index of shards: the same samples from it as from headers, whatever was killed, copied, damaged or is far away."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pytest

from mplug_owl.data.sources import read, shard_contents, shard_counts
from mplug_owl.data.sources.files import File, find
from mplug_owl.data.sources.indexing import index
from mplug_owl.data.sources.shard_contents import contents_of, look, read_contents
from mplug_owl.data.sources.shard_counts import ESTIMATE, HEADERS, INDEX
from mplug_owl.data.sources.shard_index import NAME, Writer, in_cache, pack, row_type, unpack
from mplug_owl.data.sources.shards import open_shards
from mplug_owl.errors import UserError, WriteError
from tests.data.sources.layouts import every, shard, tar


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Nothing is read at opening, and no header ever again."""
    monkeypatch.setattr(shard_counts, "READ_AT_OPENING", -1)
    contents_of.cache_clear()


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_contents, "tars", lambda file: pytest.fail("read again"))
    contents_of.cache_clear()


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("is_beside", [True, False])
def test_indexed_shards_are_never_read_again(
    shards: Path, lost: None, is_beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [read_contents(file) for file in find(str(shards), ".tar")]
    written = index(f"webdataset:{shards}", is_beside)
    assert written == [str(shards / NAME if is_beside else in_cache(str(shards)))]
    unreadable(monkeypatch)
    found = open_shards(str(shards))
    assert (found.blocks.tolist(), found.is_exact) == ([3, 1, 2], True)
    for file, contents in zip(found.files, before, strict=True):
        assert same(contents_of(file).samples, contents.samples)
        assert contents_of(file).passed_over == contents.passed_over
    assert every(read(str(shards)))[5].answers == ("picture 1 of shard 2",)


def test_packed_samples_are_the_same_and_few_bytes() -> None:
    random = np.random.default_rng(0)
    rows = np.zeros(10_000, row_type(9))
    rows["key"] = [b"%09d" % number for number in range(10_000)]
    lengths = random.integers(5_000, 40_000, 10_000), random.integers(500, 900, 10_000), random.integers(20, 200, 10_000)
    blocks = [512 * (1 + -(-length // 512)) for length in lengths]
    rows["picture_ending"], rows["words_ending"] = b"jpg", b"txt"
    rows["picture_start"] = np.cumsum(sum(blocks)) - sum(blocks) + 512
    rows["words_start"] = rows["picture_start"] + blocks[0] + blocks[1]
    rows["picture_end"], rows["words_end"] = rows["picture_start"] + lengths[0], rows["words_start"] + lengths[2]
    rows[17] = rows[18] = np.zeros((), rows.dtype)  # missing ones start at 0
    packed = pack(rows)
    assert same(unpack(packed, len(rows), 9), rows)
    assert len(packed) / len(rows) < 9  # measured 7.6
    assert same(unpack(pack(rows[:0]), 0, 9), rows[:0])


def test_a_copy_of_shards_is_counted_by_its_index_and_read_anew(
    shards: Path, lost: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index(str(shards), is_beside=True)
    copy = tmp_path_factory.mktemp("copy") / "there"
    shutil.copytree(shards, copy, copy_function=shutil.copyfile)
    found = open_shards(str(copy))
    assert (found.blocks.tolist(), set(found.said_by)) == ([3, 1, 2], {INDEX})
    assert found[3]["caption"] == "picture 0 of shard 1"
    (copy / "00001.tar").write_bytes(tar(shard(1, 5)))  # another size
    assert open_shards(str(copy)).said_by.tolist() == [INDEX, ESTIMATE, INDEX]


@pytest.mark.parametrize("damage", [b"", b"owl" * 2_000, None])
def test_an_index_that_is_damaged_is_no_index(shards: Path, lost: None, damage: bytes | None) -> None:
    index(str(shards), is_beside=True)
    path = shards / NAME
    path.write_bytes(path.read_bytes()[:9_000] if damage is None else damage)
    assert [talk.answers[0][-1] for talk in every(read(str(shards)))][-2:] == ["2", "2"]


def test_an_index_whose_writer_was_killed_is_read_as_it_was_before(shards: Path, lost: None) -> None:
    index(str(shards), is_beside=True)
    code = (
        "import os, signal, sqlite3, sys; write = sqlite3.connect(sys.argv[1], isolation_level=None).execute\n"
        "write('PRAGMA cache_size = 2'); write('BEGIN IMMEDIATE'); write('DELETE FROM shards')\n"
        "for n in range(100): write('INSERT INTO contents VALUES (?, 1, zeroblob(1000))', (str(n),))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-S", "-c", code, str(shards / NAME)], check=False)
    assert (shards / f"{NAME}-journal").stat().st_size > 0
    assert open_shards(str(shards)).is_exact


def test_an_index_of_another_layout_is_made_anew(shards: Path, lost: None) -> None:
    index(str(shards), is_beside=True)
    with sqlite3.connect(shards / NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert set(open_shards(str(shards)).said_by) == {ESTIMATE}
    index(str(shards), is_beside=True)
    assert open_shards(str(shards)).is_exact


def test_only_what_is_missing_is_read(shards: Path, lost: None, monkeypatch: pytest.MonkeyPatch) -> None:
    index(f"{shards}/{{00000..00001}}.tar", is_beside=True)
    files = find(str(shards), ".tar")
    writer = Writer(shards / NAME)
    assert [file.name for file in writer.missing(files)] == ["00002.tar"]
    writer.close()
    assert open_shards(str(shards)).said_by.tolist() == [HEADERS, HEADERS, ESTIMATE]
    index(str(shards), is_beside=True)
    unreadable(monkeypatch)
    assert index(str(shards), is_beside=True) == [str(shards / NAME)]
    index(str(shards), is_beside=False)  # from one index into the other
    assert same(look(files[2]).samples, contents_of(files[2]).samples)


def test_broken_shards_are_named_and_the_others_indexed(shards: Path, lost: None) -> None:
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:900])
    with pytest.raises(UserError, match=r"00001\.tar: damaged or cut short at byte 900; fetch it anew\nthe other shards are"):
        index(str(shards), is_beside=True)
    assert open_shards(str(shards)).said_by.tolist() == [HEADERS, ESTIMATE, HEADERS]
    assert index(f"{shards}#skip-broken", is_beside=True) == [str(shards / NAME)]
    (shards / "00001.tar").write_bytes(tar(shard(1, 1)))
    index(str(shards), is_beside=True)
    assert open_shards(str(shards)).blocks.tolist() == [3, 1, 2]


def test_a_shard_that_may_not_be_read_is_no_want_of_room(shards: Path, lost: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = File.stream

    def refused(file: File) -> BinaryIO:
        if file.name == "00001.tar":
            raise PermissionError(13, "Permission denied")
        return stream(file)

    monkeypatch.setattr(File, "stream", refused)
    with pytest.raises(UserError, match=r"00001\.tar: cannot be read \(Permission denied\)\nthe other shards are"):
        index(str(shards), is_beside=True)


def test_who_started_a_process_that_reads_is_no_matter(shards: Path, lost: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of forks, which Python 3.14 has by default, is not the process that indexes."""
    monkeypatch.setattr("mplug_owl.data.sources.indexing.SECONDS", -1.0)
    monkeypatch.setattr("mplug_owl.data.sources.indexing.multiprocessing.Process", Here)
    index(str(shards), is_beside=True)
    assert open_shards(str(shards)).is_exact


class Here:
    """A process that is none."""

    exitcode = 0

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.start = lambda: target(*args)

    def is_alive(self) -> bool:
        return False

    def terminate(self) -> None:
        pass


def test_remote_shards_have_their_index_beside_them(
    shards: Path, lost: None, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in shards.glob("*.tar"):
        store.pipe(f"/indexed/{path.name}", path.read_bytes())
    monkeypatch.setattr("mplug_owl.data.sources.indexing._read_all", in_this_process)  # where the memory store is
    assert index("memory://indexed/*.tar", is_beside=True) == [f"memory:///indexed/{NAME}"]
    in_cache("memory:///indexed").unlink()
    unreadable(monkeypatch)
    found = open_shards("memory://indexed/*.tar")
    assert found.is_exact
    assert found[5]["caption"] == "picture 1 of shard 2"


def in_this_process(files: list, target: Path, *_: object) -> None:
    import multiprocessing

    from mplug_owl.data.sources.indexing import _read_part

    _read_part(files, target, multiprocessing.Value("q", 0), os.getppid())


def test_no_room_is_an_error_of_its_own(shards: Path, lost: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*how: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Writer, "add", full)
    with pytest.raises(WriteError, match=r"owl-index\.sqlite could not be written"):
        index(str(shards), is_beside=True)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_index(tmp_path: Path, lost: None) -> None:
    for number in range(40):
        (tmp_path / f"{number:05d}.tar").write_bytes(tar(shard(number, 1 + number % 3)))
    code = (
        "import sys, time; from mplug_owl.data.sources import indexing as i; i.SECONDS = 0.0; real = i.look\n"
        "def slow(file): time.sleep(0.02); return real(file)\n"
        "i.look = slow; i.index(sys.argv[1], True, 2)"
    )
    for life in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
        if life < 3:
            deadline = time.monotonic() + 60
            before = open_shards(str(tmp_path)).said_by.tolist().count(HEADERS)
            while open_shards(str(tmp_path)).said_by.tolist().count(HEADERS) < before + 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        process.wait()
    found = open_shards(str(tmp_path))
    assert found.is_exact
    assert found.blocks.tolist() == [1 + number % 3 for number in range(40)]
    for file in found.files:
        assert same(contents_of(file).samples, read_contents(file).samples)
