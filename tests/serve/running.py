"""A server behind a real socket of this process, its clients in the same event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from socket import SO_SNDBUF, SOL_SOCKET

from mplug_owl.page.listening import bound
from mplug_owl.serve.api import Server
from mplug_owl.serve.run import Draining, draining


@asynccontextmanager
async def running(server: Server, grace: float = 20.0, small: bool = False) -> AsyncIterator[tuple[int, Draining]]:
    """The port and what listens there, which is asked to stop at the end. `small` sockets hold 4 kB of what is not read."""
    http = draining(server, grace)
    with bound("127.0.0.1", 0) as listening:
        if small:
            listening.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)
        listening.listen()
        port = listening.getsockname()[1]
        task = asyncio.create_task(http.serve(sockets=[listening]))
        while not http.started and not task.done():
            await asyncio.sleep(0.005)
        try:
            yield port, http
        finally:
            http.should_exit = True
            await task


async def exchange(port: int, request: bytes, seconds: float = 20.0) -> bytes:
    """What comes back until the connection ends; nothing where it ends without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = b""
    with suppress(OSError):
        writer.write(request)
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                found += part
    writer.close()
    return found
