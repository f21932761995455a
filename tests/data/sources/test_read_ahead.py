"""Reading from a store: requests counted and asked again, never a wrong byte, latency hidden, one cache for all processes."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from mplug_owl import MplugOwlProcessor
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepBatches, StepDataset, step_loader
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import chunks, read, read_ahead, store
from mplug_owl.data.sources.files import find
from mplug_owl.data.sources.source import FileSource, Source
from mplug_owl.errors import UserError
from tests.data.sources.layouts import every, shard, tar
from tests.object_store import RESET, SHORT, SLOW, WHOLE, ObjectStore

SAMPLES = 80


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectStore]:
    (tmp_path / "00000.tar").write_bytes(tar(shard(0, SAMPLES)))
    with ObjectStore(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, short pauses, and nothing remembered of other tests' caches."""
    monkeypatch.setattr(store, "PAUSES", (0.0, 0.0, 0.0))
    for module in (chunks, read_ahead):
        monkeypatch.setattr(module, "CHUNK", 64 * 1024)
    monkeypatch.setattr(read_ahead, "_processes", {})


@pytest.fixture
def opened(server: ObjectStore) -> FileSource:
    """The shard of the server, its table known and its bytes not here."""
    source = read(f"webdataset:{server.url}/00000.tar")
    assert isinstance(source, FileSource)
    for piece in chunk_folder().iterdir():
        piece.unlink()
    read_ahead._processes.clear()
    server.forget()
    return source


def chunk_folder() -> Path:
    return store.cache_folder() / "chunks"


def local(server: ObjectStore) -> list[Any]:
    return every(read(f"webdataset:{server.folder}/00000.tar"))


def settled(expected: int, server: ObjectStore) -> None:
    """Wait until a server was asked so often."""
    until = time.monotonic() + 20
    while server.counts()[0] < expected and time.monotonic() < until:
        time.sleep(0.01)


# Requests


def test_a_shard_that_nothing_is_known_of_is_fetched_once_by_pieces(server: ObjectStore) -> None:
    assert every(read(f"webdataset:{server.url}/00000.tar")) == local(server)
    size = (server.folder / "00000.tar").stat().st_size
    pieces = -(-size // chunks.CHUNK)
    # One byte more asks whether the store knows ranges.
    assert server.counts() == (pieces + 1, size + 1)


def test_neighbours_come_by_pieces_whatever_their_order(opened: FileSource, server: ObjectStore) -> None:
    order = [(index * 37) % SAMPLES for index in range(SAMPLES)]
    opened.expect(order[:10], nearby=True)
    found = [opened[index] for index in order if opened.expect([index], nearby=True) is None]
    expected = local(server)
    assert found == [expected[index] for index in order]
    assert server.counts()[0] == -(-(server.folder / "00000.tar").stat().st_size // chunks.CHUNK)


def test_samples_from_anywhere_take_one_request_each_and_all_at_once(opened: FileSource, server: ObjectStore) -> None:
    server.latency, order = 0.1, list(range(0, 60, 3))
    opened.expect(order)
    opened.expect(order)  # naming them again costs nothing
    found = [opened[index] for index in order]
    expected = local(server)
    assert found == [expected[index] for index in order]
    assert server.counts()[0] == len(order)
    assert server.most_at_once > 5


def test_a_shard_of_which_nothing_is_known_is_opened_ahead(
    server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number of samples stands beside it; the shard is fetched once, by threads, while others are read."""
    monkeypatch.setattr("mplug_owl.data.sources.shard_counts.READ_AT_OPENING", 0)
    (tmp_path / "00000_stats.json").write_text(f'{{"successes": {SAMPLES}}}')
    source = read(f"webdataset:{server.url}/00000.tar")
    assert isinstance(source, FileSource)
    server.forget()
    for nearby in (True, False):
        source.expect([7, 50], nearby)
    until = time.monotonic() + 20
    while not read_ahead.prepared(source.records.files[0].key, list).done() and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.01)
    pieces = -(-(tmp_path / "00000.tar").stat().st_size // chunks.CHUNK)
    assert [source[7], source[50]] == [local(server)[7], local(server)[50]]
    assert pieces <= server.counts()[0] <= pieces + 2


def test_what_was_asked_is_counted(opened: FileSource, server: ObjectStore) -> None:
    before = store.traffic()
    server.fail(503)
    opened[3], opened[4]
    assert store.traffic().since(before) == (3, 1, server.counts()[1])


# Failures


@pytest.mark.parametrize("faults", [[500], [503, RESET], [SHORT], [WHOLE], [429, SHORT, RESET], [408]])
@pytest.mark.parametrize("nearby", [False, True])
def test_a_store_that_fails_now_and_then_changes_no_byte(
    opened: FileSource, server: ObjectStore, faults: list[int | str], nearby: bool
) -> None:
    server.fail(*faults)
    opened.expect([5], nearby)
    assert opened[5] == local(server)[5]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (500, r"StatusError: HTTP 500, 4 tries in 0 s"),
        (SHORT, r"_ShortError: 1,\d\d\d bytes where [\d,]+ were asked for, 4 tries"),
        (403, r"StatusError: HTTP 403\)"),
    ],
)
def test_a_store_that_always_fails_is_named(opened: FileSource, server: ObjectStore, fault: int | str, reason: str) -> None:
    server.fail(*[fault] * 50)
    opened.expect([5])
    with pytest.raises(UserError, match=rf"^standin://.*/00000\.tar: cannot be fetched \({reason}"):
        opened[5]


def test_a_store_that_fails_while_a_shard_is_opened_damages_none(server: ObjectStore) -> None:
    server.fail(206, *[500] * 50)  # the first asks for one byte
    with pytest.raises(UserError, match=r"00000\.tar: cannot be fetched \(StatusError: HTTP 500"):
        read(f"webdataset:{server.url}/00000.tar")


def test_an_object_that_is_gone_is_no_samples_fault(opened: FileSource, server: ObjectStore) -> None:
    (server.folder / "00000.tar").unlink()
    with pytest.raises(UserError, match=r"00000\.tar: the file is gone since it was opened"):
        opened[5]


def test_a_web_server_gives_the_version_that_was_opened_or_none(server: ObjectStore) -> None:
    pytest.importorskip("aiohttp")
    address = f"http://{server.host}/00000.tar"
    source = read(f"webdataset:{address}")
    assert every(source) == local(server)
    for piece in chunk_folder().iterdir():
        piece.unlink()
    other = tar(shard(1, SAMPLES))
    (server.folder / "00000.tar").write_bytes(other)
    with pytest.raises(UserError, match=r"00000\.tar: cannot be fetched \(ClientResponseError: 412"):
        source[5]
    assert read(f"webdataset:{address}")[5].answers == ("picture 5 of shard 1",)


def test_a_web_server_that_stalls_is_asked_again(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    source = read(f"webdataset:http://{server.host}/00000.tar")
    monkeypatch.setenv(chunks.SETTING, "0")
    monkeypatch.setattr(store, "SILENCE", 0.2)
    server.stall = 15.0
    server.fail(SLOW)
    began = time.monotonic()
    (file,) = find(f"http://{server.host}/00000.tar", ".tar")
    for piece in chunk_folder().iterdir():
        piece.unlink()
    server.fail(SLOW)
    assert source[5] == local(server)[5]
    assert file.version.startswith('"')
    assert time.monotonic() - began < 15


# The cache


def test_the_cache_is_bounded_and_the_oldest_leave_first(
    opened: FileSource, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chunks.SETTING, str(3.5 * chunks.CHUNK / 1e9))
    found = []
    for index in range(SAMPLES):
        opened.expect([index], nearby=True)
        found.append(opened[index])
    assert found == local(server)
    folder = chunk_folder()
    pieces = sorted(path for path in folder.iterdir() if path.suffix != ".lock")
    assert sum(path.stat().st_size for path in pieces) <= 3.5 * chunks.CHUNK
    last = (server.folder / "00000.tar").stat().st_size // chunks.CHUNK
    assert pieces[-1].name.endswith(f"{last:05d}")
    assert server.counts()[0] <= last + 3


def test_pieces_that_arrive_together_stay_within_the_bound(
    opened: FileSource, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chunks.SETTING, str(3.5 * chunks.CHUNK / 1e9))
    (file,) = find(f"{server.url}/00000.tar", ".tar")
    make_room = chunks._make_room

    def slow_to_write(folder: Path, room: int) -> None:
        make_room(folder, room)
        time.sleep(0.1)

    monkeypatch.setattr(chunks, "_make_room", slow_to_write)
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(lambda number: chunks.keep(file, number), range(4))) == [True] * 4
    pieces = [path for path in chunk_folder().iterdir() if path.suffix != ".lock"]
    assert len(pieces) == 3
    assert sum(path.stat().st_size for path in pieces) <= 3.5 * chunks.CHUNK


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_piece_that_a_crash_damaged_is_fetched_anew(opened: FileSource, server: ObjectStore, damage: str) -> None:
    opened.expect([0], nearby=True)
    opened[0]
    settled(2, server)
    pieces = list(chunk_folder().glob("*[0-9]"))
    assert pieces
    for piece in pieces:
        raw = bytearray(piece.read_bytes())
        raw[1000] ^= 1
        piece.write_bytes({"cut": raw[:-1], "flipped": raw, "empty": b""}[damage])
    read_ahead._processes.clear()
    assert opened[0] == local(server)[0]
    opened.expect([1], nearby=True)
    assert opened[1] == local(server)[1]


def test_a_full_disk_makes_a_store_slow_and_not_wrong(
    opened: FileSource, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "SPARE", 2**60)
    opened.expect(range(10), nearby=True)
    assert [opened[index] for index in range(10)] == local(server)[:10]
    assert not list(chunk_folder().glob("*[0-9]"))


def test_what_there_is_no_room_for_is_not_fetched(
    opened: FileSource, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(chunks.SETTING, str(chunks.CHUNK / 1e9))  # without room for its checksum
    for index in range(10):
        opened.expect([index], nearby=True)
        assert opened[index] == local(server)[index]
    assert server.counts()[0] == 10


def test_what_threads_expect_at_once_is_counted_once(opened: FileSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is stopped between counting its bytes and noting them down; another makes room for as many."""
    (file,), ahead = opened.records.files, read_ahead.Ahead()  # type: ignore[attr-defined]
    start, first, second = ahead.start, threading.Event(), threading.Event()

    def late(task: Callable[[], Any]) -> Future[Any]:
        if not first.is_set():
            first.set()
            second.wait(0.2)
        return start(task)

    monkeypatch.setattr(ahead, "start", late)
    monkeypatch.setattr(read_ahead, "HELD_BYTES", 1000)
    with ThreadPoolExecutor() as threads:
        begun = threads.submit(ahead.fetch_exactly, read_ahead.Span(file, 0, 600))
        first.wait()
        ahead.fetch_exactly(read_ahead.Span(file, 600, 1200))
        second.set()
        begun.result()
    assert [(start, end) for _, start, end in ahead._exact] == [(600, 1200)]
    assert ahead._held == 600


def test_a_piece_that_cannot_be_had_leaves_the_sample_to_be_fetched(
    opened: FileSource, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: object, number: int) -> bool:
        raise UserError("too much at once")

    monkeypatch.setattr(chunks, "keep", refused)
    monkeypatch.setattr(read_ahead, "THREADS", 0)  # no thread begins, so it is fetched where it is read
    read_ahead.expect(opened.records._spans(0), nearby=True)  # type: ignore[attr-defined]
    assert opened[0] == local(server)[0]


def test_a_setting_that_is_no_number_is_said_to_be_so(opened: FileSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chunks.SETTING, "much")
    with pytest.raises(UserError, match="OWL_CHUNK_CACHE_GB=much: expected a number of GB"):
        opened.expect([0], nearby=True)


# Processes


def _reads(source: Source, go: Any, results: Any) -> None:
    go.wait()
    source.expect(range(SAMPLES), nearby=True)  # type: ignore[attr-defined]
    results.put(every(source))


def test_processes_of_a_machine_fetch_each_piece_once(opened: FileSource, server: ObjectStore) -> None:
    opened.expect([50])  # threads of the parent, which a fork leaves behind
    opened[50]
    server.forget()
    server.latency = 0.02
    context = get_context("fork")
    go, results = context.Event(), context.Queue()
    children = [context.Process(target=_reads, args=(opened, go, results)) for _ in range(4)]
    for child in children:
        child.start()
    go.set()
    expected = local(server)
    for _ in children:
        assert results.get(timeout=60) == expected
    for child in children:
        child.join()
    assert server.counts()[0] == -(-(server.folder / "00000.tar").stat().st_size // chunks.CHUNK)


class Stepwise:
    """Every sample by itself, expected one ahead, as a data worker does."""

    def __init__(self, source: FileSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        self.source.expect([index, min(index + 2, SAMPLES - 1)])
        return self.source[index]


@pytest.mark.parametrize("scheme", ["standin", "http"])
def test_forked_workers_read_as_the_parent_does(server: ObjectStore, scheme: str) -> None:
    if scheme == "http":
        pytest.importorskip("aiohttp")
    source = read(f"webdataset:{scheme}://{server.host}/00000.tar")
    assert isinstance(source, FileSource)
    source.expect([1])
    assert source[1] == local(server)[1]
    found = DataLoader(Stepwise(source), batch_size=None, sampler=range(20), num_workers=2)
    assert list(found) == local(server)[:20]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order", ["random", "blocks"])
def test_the_steps_of_a_run_take_a_request_a_sample_or_one_a_piece(
    opened: FileSource, server: ObjectStore, processor: MplugOwlProcessor, order: str, workers: int
) -> None:
    def run(source: FileSource) -> list[StepBatches]:
        blocks = [source.blocks] if order == "blocks" else None
        examples = Examples([source], processor, Encoding(max_tokens=256), seed=0)
        dataset = StepDataset(examples, Mixture([SAMPLES], [None], 4, seed=0, blocks=blocks), 4)
        return [data for _, data in step_loader(dataset, 3, 15, workers)]

    near = run(read(f"webdataset:{server.folder}/00000.tar"))  # type: ignore[arg-type]
    read_ahead._processes.clear()
    store.take_traffic()
    far = run(opened)
    for one, other in zip(far, near, strict=True):
        assert torch.equal(one.batches[0].input_ids, other.batches[0].input_ids)
        assert torch.equal(one.batches[0].pixel_values, other.batches[0].pixel_values)
    settled(48 if order == "random" else 1, server)
    pieces = -(-(server.folder / "00000.tar").stat().st_size // chunks.CHUNK)
    assert server.counts()[0] == 48 if order == "random" else 1 <= server.counts()[0] <= pieces
    assert 1 <= sum(data.fetched.requests for data in far) <= server.counts()[0]


def test_a_process_that_ends_waits_for_no_store(opened: FileSource, server: ObjectStore) -> None:
    server.latency = 30
    child = get_context("fork").Process(target=opened.expect, args=(range(20),))
    child.start()
    child.join(25)
    assert child.exitcode == 0


def test_threads_are_few_and_begin_when_needed(opened: FileSource) -> None:
    before = threading.active_count()
    assert os.getpid() not in read_ahead._processes
    opened.expect(range(SAMPLES))
    assert threading.active_count() - before <= read_ahead.THREADS + read_ahead.THREADS  # the server's own among them
