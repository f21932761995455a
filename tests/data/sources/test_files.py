"""Files near and far: patterns, stores, a web server, the cache."""

import contextlib
import io
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.sources import check, files, read
from mplug_owl.data.sources import store as stores
from mplug_owl.data.sources.shards import open_shards
from mplug_owl.errors import UserError
from mplug_owl.writing import replacing
from tests.data.sources.layouts import jpeg, shard, tar


@given(first=st.integers(0, 120), count=st.integers(1, 12), width=st.integers(1, 5))
def test_a_range_counts_as_a_shell_does(first: int, count: int, width: int) -> None:
    names = [f"{number:0{width}}" for number in range(first, first + count)]
    spelled = list(files._spelled_out(f"a/{{{names[0]}..{names[-1]}}}.tar"))
    if len(names[0]) == len(names[-1]):
        assert spelled == [f"a/{name}.tar" for name in names]
    assert [int(name[2:-4]) for name in spelled] == list(range(first, first + count))
    assert list(files._spelled_out(f"a/{{{','.join(names)},}}.tar")) == [f"a/{name}.tar" for name in [*names, ""]]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("{0..99999999}.tar", "more than 1,000,000 files"),
        ("{0..9" + "9" * 5_000 + "}.tar", "more than 1,000,000 files"),
        ("~nobody/a.tar", "no such file"),
        ("a\0.tar", "no such file"),
        ("o" * 300 + ".tar", "File name too long|no such file"),
    ],
)
def test_a_pattern_of_nothing_is_said_to_be_so(pattern: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        files.find(pattern, ".tar")


def test_a_home_is_expanded_and_nobody_elses(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shards))
    assert len(files.find("~/*.tar", ".tar")) == 3


def test_folders_in_a_folder_are_looked_through(shards: Path) -> None:
    """A clone of a repository of the hub has its files in `data`, one split beside the other."""
    (shards / "data").mkdir()
    for number, split in enumerate(("train", "train", "test")):
        (shards / f"{number:05d}.tar").rename(shards / "data" / f"{split}-{number}.tar")
    with pytest.raises(UserError, match=r"has the splits test, train; name one, .*/data/train\*\.tar$") as error:
        files.find(str(shards), ".tar")
    named = str(error.value).rpartition(" ")[2]
    assert [file.name for file in files.find(named, ".tar")] == ["train-0.tar", "train-1.tar"]
    (shards / "data" / "test-2.tar").unlink()
    assert len(files.find(str(shards), ".tar")) == 2


def test_a_hidden_file_is_no_shard(shards: Path) -> None:
    """macOS writes one beside each."""
    (shards / "._00000.tar").write_bytes(b"\0\5\x16\7")
    assert [file.name for file in files.find(str(shards), ".tar")] == ["00000.tar", "00001.tar", "00002.tar"]


def test_a_link_to_a_shard_stands_where_it_is(shards: Path, tmp_path: Path) -> None:
    (links := tmp_path / "links").mkdir()
    for number in range(3):
        (links / f"{number}.tar").symlink_to(shards / f"{number:05d}.tar")
    opened = open_shards(str(links))
    assert [file.address for file in opened.files] == [str(links / f"{number}.tar") for number in range(3)]
    # A run from before that was so knows the shards by what the links lead to.
    assert len(opened.with_slots([str(shards / f"{number:05d}.tar") for number in range(3)], opened.blocks)) == 6


def test_a_file_that_is_gone_is_no_single_records_fault(shards: Path) -> None:
    source = read(f"webdataset:{shards}/*.tar")
    (shards / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001\.tar: the file is gone"):
        source[3]


def test_what_is_half_written_never_takes_a_files_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with contextlib.suppress(OSError), replacing(path) as part:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with replacing(path) as part:
        part.write_bytes(b"whole")
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]


def test_a_cache_that_cannot_be_written_is_said_to_be_so(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME to a folder that can be written to"):
        read(f"{shards}/00000.tar")


class InMemory(MemoryFileSystem):
    """A store in memory under a name of its own."""

    protocol = "in-memory"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace(f"{cls.protocol}://", "memory://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"{self.protocol}:/{name}"


class Streaming(InMemory):
    """A store that reads from the start and no other way, as some web servers do."""

    protocol = "streaming"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if start is not None:
            raise NotImplementedError("no ranges")
        return super().cat_file(path)


class Opening(InMemory):
    """A store whose files can be read by several threads: fsspec's in memory has one position for all who read a file."""

    protocol = "opening"

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        return io.BytesIO(self.cat_file(path))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))


fsspec.register_implementation("streaming", Streaming, clobber=True)
fsspec.register_implementation("opening", Opening, clobber=True)


@pytest.mark.parametrize("names", ["", "*.tar", "{00000..00001}.tar"])
@pytest.mark.parametrize("protocol", ["memory", "streaming", "simplecache::opening"])
def test_shards_in_a_store(store: MemoryFileSystem, protocol: str, names: str) -> None:
    for number in range(2):
        store.pipe_file(f"/laion/{number:05d}.tar", tar(shard(number)))
    source = read(f"webdataset:{protocol}://laion/{names}")
    assert (len(source), check(source)) == (6, [])
    assert (source[4].name, source[4].answers) == ("00001.tar, 000010001.jpg", ("picture 1 of shard 1",))
    assert pickle.loads(pickle.dumps(source))[4] == source[4]


def test_a_sample_is_one_small_request(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWL_CHUNK_CACHE_GB", "0")  # else opening it has fetched it
    store.pipe_file("/laion/00000.tar", tar(shard(0, 50)))
    source = read("webdataset:memory://laion/00000.tar")
    asked: list[int] = []
    whole = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return whole(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    assert source[31].answers == ("picture 31 of shard 0",)
    assert len(asked) == 1
    assert asked[0] < len(jpeg()) + 3_000


def test_the_network_is_asked_again(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWL_CHUNK_CACHE_GB", "0")
    monkeypatch.setattr(stores, "PAUSES", (0.0, 0.0))
    store.pipe_file("/laion/00000.tar", tar(shard(0)))
    source = read("webdataset:memory://laion/00000.tar")
    whole, failures = MemoryFileSystem.cat_file, [OSError("reset"), OSError("reset")]

    def flaky(self: Any, path: str, start: int, end: int) -> bytes:
        if failures:
            raise failures.pop()
        return whole(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    assert source[0].answers == ("picture 0 of shard 0",)
    failures[:] = [OSError("reset")] * 3
    # No BadSample: the sample is not to blame.
    with pytest.raises(UserError, match=r"^memory://laion/00000\.tar: cannot be fetched \(OSError: reset, 3 tries in 0 s\)$"):
        source[0]


def test_a_store_is_asked_once_for_a_folder_whether_it_gives_ranges(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "AT_ONCE", 1)
    for number in range(20):
        store.pipe_file(f"/many/{number:05d}.tar", tar(shard(number)))
    probes: list[str] = []
    whole = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: int, end: int) -> bytes:
        probes.append(path)
        return whole(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    assert len(files.find("memory://many/", ".tar")) == 20
    assert len(probes) == 1


def test_what_a_store_does_not_have(store: MemoryFileSystem) -> None:
    with pytest.raises(UserError, match=r"^memory://laion/00000\.tar: no such file$"):
        read("webdataset:memory://laion/00000.tar")
    with pytest.raises(UserError, match=r"laion/\*\.tar: no such file; nothing matches"):
        read("webdataset:memory://laion/")
    with pytest.raises(UserError, match=r"nowhere://a\.tar: Protocol not known: nowhere"):
        read("nowhere://a.tar")
    with pytest.raises(ValueError, match=r"an address of neither \.tar nor \.parquet files; name the format"):
        read("memory://laion/readme.md")
    for spec in ("captions:memory://laion/photos.csv", "text:memory://laion/book.txt"):
        with pytest.raises(ValueError, match=r"from addresses only \.tar and \.parquet files are read; fetch it"):
            read(spec)


def test_shards_of_a_web_server(shards: Path) -> None:
    pytest.importorskip("aiohttp")
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        """Knows no ranges, as Python's own server does not."""

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=shards))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = read(f"webdataset:http://127.0.0.1:{server.server_port}/{{00000..00002}}.tar")
        assert (len(source), check(source)) == (6, [])
    finally:
        server.shutdown()
        server.server_close()
