"""A stranger's pictures: where they may come from, how large they may be, and a process that opens them.

What is wrong with a picture is said in sentences of ours: a decoder's own text may hold an address in memory.
"""

import asyncio
import base64
import binascii
import hashlib
import multiprocessing
import queue
import re
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.serve.fetch import Fetcher, FetchError
from mplug_owl.serve.kept import Kept, KnownPicture
from mplug_owl.serve.picture_process import GOOD, HEAD, READY, is_known, run
from mplug_owl.serve.protocol import RequestError

_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp|gif);base64,", re.IGNORECASE)
_UNREADABLE = "the picture cannot be read; expected a whole JPEG, PNG, WebP or GIF of at most 64 million pixels"
KEPT_SQUARES = 64 * 2**20
# For a process to begin; on a machine that is free a tenth of a second.
BEGIN_SECONDS = 120


@dataclass(frozen=True)
class MediaLimits:
    """What pictures may be.

    Args:
        pictures: So many in one request.
        file_bytes: The largest file.
        seconds: To open one.
        processes: So many are opened at once; one of them is left for others than whoever has the rest.
    """

    pictures: int = 16
    file_bytes: int = 10 * 2**20
    seconds: float = 10.0
    processes: int = 2


class Media:
    """Pictures from requests to squares of pixels.

    Args:
        limits: What pictures may be.
        fetcher: Who fetches remote ones; None refuses them all.
    """

    def __init__(self, limits: MediaLimits, fetcher: Fetcher | None = None) -> None:
        self.limits, self.fetcher = limits, fetcher
        self._openers = Openers(limits.processes, limits.seconds)
        self._threads = ThreadPoolExecutor(limits.processes, "pictures")
        self._turns: dict[bytes, asyncio.Semaphore] = {}
        self._squares, self._lock = Kept[Image.Image](KEPT_SQUARES), threading.Lock()
        self._secret = secrets.token_bytes(32)  # nobody can tell beforehand what a picture is found by

    def warm(self) -> None:
        """Begin the processes, so that the first picture waits for none. Raises RuntimeError where that cannot be done."""
        self._openers.warm()

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(cancel_futures=True)
        self._openers.close()

    async def read(self, urls: Sequence[str], owner: bytes, images: MplugOwlImageProcessor) -> list[KnownPicture]:
        """The pictures at these addresses, as the model's image processor wants them.

        Raises:
            RequestError: An address is not allowed, or what it holds is no picture that can be opened.
        """
        for url in urls:
            self._refuse_address(url)
        loop, found = asyncio.get_running_loop(), []
        turn = self._turns.setdefault(owner, asyncio.Semaphore(max(1, self.limits.processes - 1)))
        for url in urls:  # one after the other: a request of many slow ones is no crowd
            await turn.acquire()
            work = self._threads.submit(self._read, url, owner, images.size, images.resample)
            work.add_done_callback(partial(_give_back, turn, loop))  # by then the thread is free, whoever has left before
            found.append(await asyncio.wrap_future(work))
        return found

    def _refuse_address(self, url: str) -> None:
        if _DATA_URL.match(url[:40]):
            if len(url) > self.limits.file_bytes * 4 / 3 + 64:
                raise RequestError(413, f"a picture has more than {self.limits.file_bytes:,} bytes", "messages")
        elif url[:5].lower() == "data:":
            raise RequestError(400, "expected data:image/png, jpeg, webp or gif;base64,...", "messages")
        elif self.fetcher is None:
            raise RequestError(400, "pictures are sent as data: URLs; this server fetches none", "messages")
        else:
            try:
                self.fetcher.check(url)
            except FetchError as error:
                raise RequestError(400, str(error), "messages") from None

    def _read(self, url: str, owner: bytes, side: int, resample: int) -> KnownPicture:
        raw = self._bytes(url)
        if not is_known(raw):
            raise RequestError(400, _UNREADABLE, "messages")
        key = hashlib.blake2b(len(owner).to_bytes(2) + owner + raw, key=self._secret, digest_size=32).digest()
        shape = key, side, resample
        with self._lock:
            square = self._squares.get(shape)
        if square is None:
            try:
                pixels = self._openers.open(raw, side, resample)
            except (EOFError, OSError, RuntimeError):  # no process could be begun: it is not the picture's fault
                raise RequestError(503, "pictures cannot be opened now; try again later") from None
            if pixels is None:
                raise RequestError(400, _UNREADABLE, "messages")
            square = Image.frombytes("RGB", (side, side), pixels)
            with self._lock:
                self._squares.put(shape, square, len(pixels))
        return KnownPicture(square, key)

    def _bytes(self, url: str) -> bytes:
        if self.fetcher is not None and not _DATA_URL.match(url[:40]):
            try:
                return self.fetcher.fetch(url)
            except FetchError as error:
                raise RequestError(400, str(error), "messages") from None
        try:
            return base64.b64decode(url[url.index(",") + 1 :].encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise RequestError(400, "a picture's base64 is damaged", "messages") from None


class Openers:
    """Processes that open pictures. One that dies, or takes too long, is replaced: its picture is unreadable.

    Args:
        count: How many there are.
        seconds: How long one picture may take.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.seconds, self.count = seconds, count
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["mplug_owl.serve.picture_process"])
        self._free: queue.SimpleQueue[tuple[Any, Connection] | None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)  # begun when first needed

    def open(self, raw: bytes, side: int, resample: int) -> bytes | None:
        """A file to the RGB bytes of its square [side, side, 3]; None where it cannot be opened in time."""
        worker = self._next()
        alive = False
        try:
            answer = self._ask(worker[1], HEAD.pack(side, resample) + raw)
            alive = answer is not None
            good = answer is not None and answer[:1] == GOOD and len(answer) == 1 + side * side * 3
            return answer[1:] if answer is not None and good else None
        finally:
            if not alive:
                _end(worker)
            self._free.put(worker if alive else None)

    def warm(self) -> None:
        """Begin all of them."""
        for worker in [self._next() for _ in range(self.count)]:
            self._free.put(worker)

    def close(self) -> None:
        """End all of them."""
        for _ in range(self.count):
            if (worker := self._free.get()) is not None:
                _end(worker)

    def _next(self) -> tuple[Any, Connection]:
        worker = self._free.get()
        try:
            return worker or self._begin()
        except BaseException:
            self._free.put(None)
            raise

    def _ask(self, connection: Connection, request: bytes) -> bytes | None:
        with suppress(EOFError, OSError):
            connection.send_bytes(request)
            if connection.poll(self.seconds):
                return connection.recv_bytes(64 * 2**20)
        return None

    def _begin(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=run, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        try:
            if not ours.poll(BEGIN_SECONDS) or ours.recv_bytes(1) != READY:
                raise RuntimeError("a process that opens pictures did not begin")
        except BaseException:
            _end((process, ours))
            raise
        return process, ours


def _give_back(turn: asyncio.Semaphore, loop: asyncio.AbstractEventLoop, _: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits for a turn
        loop.call_soon_threadsafe(turn.release)


def _end(worker: tuple[Any, Connection]) -> None:
    process, connection = worker
    connection.close()
    process.kill()
    process.join()
