"""Reading ahead: what is needed soon is fetched from its store by threads, so that nobody waits for a network.

Samples near each other come as pieces of some MiB into the chunk cache, which all processes of the machine share. Samples
from anywhere come one request each, and wait in the memory of the process that asked.
"""

import contextlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple

from mplug_owl.data.sources import chunks
from mplug_owl.data.sources.chunks import CHUNK, Remote
from mplug_owl.data.sources.store import fetch
from mplug_owl.errors import UserError

# A request waits some 50 ms, so this many at once give 600 samples a second.
THREADS = 32
# Samples fetched and not yet read, in each process: 10,000 pictures of 256 pixels.
HELD_BYTES = 256 * 2**20
# Pieces, and shards, whose arrival a process remembers.
REMEMBERED = 4096
# Pieces of a stream under way at once: ten connections of 50 MB/s fill a line of 4 Gbit/s.
STREAMED = 10


class Span(NamedTuple):
    """The bytes of a remote file from `start` to `end`."""

    file: Remote
    start: int
    end: int


def expect(spans: Iterable[Span], nearby: bool) -> None:
    """Fetch what will be read soon, in the order given, and return at once.

    Args:
        spans: What will be read. Naming one again costs nothing.
        nearby: Their neighbours will be read soon too, so whole pieces are fetched, and the piece after each.
    """
    ahead = _ahead()
    if not nearby or not chunks.allowed_bytes():
        for span in spans:
            ahead.fetch_exactly(span)
        return
    wanted = dict.fromkeys((file, number) for file, start, end in spans for number in chunks.numbers(start, end))
    following = ((file, number + 1) for file, number in list(wanted) if (number + 1) * CHUNK < file.size)
    for file, number in (*wanted, *following):
        ahead.fetch_piece(file, number)


def prepared(key: str, task: Callable[[], object]) -> Future[object]:
    """A task that a thread of this process does once for a key, before what depends on it can be expected."""
    return _ahead().prepare(key, task)


def read(file: Remote, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`, where they are already or from the store. Raises UserError that names the file."""
    if start >= end:
        return b""
    ahead = _ahead()
    raw = ahead.take(Span(file, start, end))
    if raw is None:
        ahead.arrived(file, start, end)
        raw = chunks.read(file, start, end)
    if raw is None:
        ahead.forget(file, start, end)
        raw = fetch(file.address, start, end, file.version)
    return raw


class Ahead:
    """The threads of one process, and what they are fetching or have fetched."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        # A shard that has been opened lets a thread expect its samples, while others do the same.
        self._threads, self._lock = 0, threading.RLock()
        self._exact = OrderedDict[tuple[str, int, int], Future[bytes]]()
        self._held = 0
        self._pieces = OrderedDict[tuple[str, int], Future[bool]]()
        self._prepared = OrderedDict[str, Future[Any]]()

    def start(self, task: Callable[[], Any]) -> Future[Any]:
        """Queue a task. The threads are daemons: a process that ends does not wait for a network."""
        future: Future[Any] = Future()
        self._tasks.put((future, task))
        with self._lock:
            if self._threads < THREADS:
                self._threads += 1
                threading.Thread(target=self._work, name="read-ahead", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            future, task = self._tasks.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:  # raised where the result is asked for
                    future.set_exception(error)

    def prepare(self, key: str, task: Callable[[], Any]) -> Future[Any]:
        """Queue a task if none was queued for this key."""
        with self._lock:
            future = self._prepared.get(key)
            if future is None:
                future = self._prepared[key] = self.start(task)
                while len(self._prepared) > REMEMBERED:
                    self._prepared.popitem(last=False)
            return future

    def fetch_exactly(self, span: Span) -> None:
        """One request for one span, if it is not under way."""
        file, start, end = span
        key = file.key, start, end
        with self._lock:
            if key in self._exact or not 0 < end - start <= HELD_BYTES:
                return
            self._held += end - start
            while self._held > HELD_BYTES:  # nobody came for the oldest
                (_, first, last), future = self._exact.popitem(last=False)
                future.cancel()
                self._held -= last - first
            self._exact[key] = self.start(lambda: fetch(file.address, start, end, file.version))

    def fetch_piece(self, file: Remote, number: int) -> None:
        """One piece into the chunk cache, if it is neither there nor under way."""
        key = file.key, number
        with self._lock:
            if key in self._pieces or chunks.is_kept(file, number):
                return
            self._pieces[key] = self.start(lambda: chunks.keep(file, number))
            while len(self._pieces) > REMEMBERED:
                self._pieces.popitem(last=False)

    def take(self, span: Span) -> bytes | None:
        """What was fetched for exactly this span; None where it was not, or where no thread has begun."""
        key = span.file.key, span.start, span.end
        with self._lock:
            future = self._exact.pop(key, None)
            if future is None:
                return None
            self._held -= span.end - span.start
        return None if future.cancel() else future.result()

    def arrived(self, file: Remote, start: int, end: int) -> None:
        """Wait for the pieces of a span that are on their way; fetch here what no thread has begun."""
        for number in chunks.numbers(start, end):
            future = self._pieces.get((file.key, number))
            if future is not None and future.cancel():
                self._pieces.pop((file.key, number), None)
                with contextlib.suppress(UserError):  # as below
                    chunks.keep(file, number)
            elif future is not None:
                future.exception()  # whatever went wrong, the store is asked for the sample alone

    def forget(self, file: Remote, start: int, end: int) -> None:
        """The pieces of a span have left the cache, so they may be fetched again."""
        for number in chunks.numbers(start, end):
            self._pieces.pop((file.key, number), None)


class Stream(io.RawIOBase):
    """A remote file from front to end, by whole pieces that stay in the chunk cache; the next ones are fetched meanwhile."""

    def __init__(self, file: Remote) -> None:
        self.file, self.position = file, 0
        self._number, self._piece = -1, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.file.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        number, start = divmod(self.position, CHUNK)
        if self.position >= self.file.size:
            return 0
        if number != self._number:
            self._piece, self._number = self._whole(number), number
        part = self._piece[start : start + len(buffer)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)

    def _whole(self, number: int) -> bytes:
        start, size = number * CHUNK, self.file.size
        ends = [min(size, first + CHUNK) for first in range(start, min(size, start + STREAMED * CHUNK), CHUNK)]
        if chunks.allowed_bytes():
            for following in range(number, number + len(ends)):
                _ahead().fetch_piece(self.file, following)
        return read(self.file, start, ends[0])


_processes: dict[int, Ahead] = {}


def _ahead() -> Ahead:
    # Threads do not survive a fork, and a lock may have been held by one: each process has its own.
    return _processes.get(os.getpid()) or _processes.setdefault(os.getpid(), Ahead())
