"""A process that opens strangers' pictures, and may die of them: a file's bytes in, a square of pixels out.

It is forked from a clean process that has nothing but this file imported. Nothing that it sends is unpickled.
"""

import signal
import struct
from multiprocessing.connection import Connection
from pathlib import Path

from mplug_owl.errors import BadSample
from mplug_owl.model.open_picture import open_image, to_square

# How files begin that browsers and telephones send; a RIFF file may be a WebP. No other decoder is reached by strangers.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
# What one picture may take: one of 64 million pixels takes 256 MB, and resizing it some more.
MEMORY = 2**30
# A request is the square's side and how pixels are mixed, then the file.
HEAD = struct.Struct("<ii")
READY, GOOD, BAD = b"!", b"+", b"-"


def is_known(raw: bytes) -> bool:
    """Whether a file begins as JPEG, PNG, WebP or GIF does."""
    return raw.startswith(BEGINNINGS) or (raw[:4] == b"RIFF" and raw[8:12] == b"WEBP")


def run(connection: Connection) -> None:
    """Say that it is there, then answer each request until the pipe closes: `+` and RGB bytes [side, side, 3], or `-`."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # a whole group of processes may get them; the server says when it ends
        signal.signal(ending, signal.SIG_IGN)
    _limit_memory()
    connection.send_bytes(READY)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_square(request))


def _square(request: bytes) -> bytes:
    side, resample = HEAD.unpack_from(request)
    try:
        return GOOD + to_square(open_image(request[HEAD.size :]), side, resample).tobytes()
    except (BadSample, MemoryError):
        return BAD


def _limit_memory() -> None:
    """At most so much beside what is there already. Elsewhere than on Linux there is no such limit."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return
    import resource  # not above: Windows has none

    most = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
