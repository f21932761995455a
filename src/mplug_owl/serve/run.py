"""A server from beginning to end: one line when it begins, every accepted request answered when it is asked to stop."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mplug_owl.errors import UserError
from mplug_owl.page.listening import base_address, bound, is_local
from mplug_owl.serve.api import ServeLimits, Server
from mplug_owl.serve.fetch import Fetcher
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.models import named, open_models

# A request line and its headers have so many bytes at most, and so many seconds to arrive.
HEADER_BYTES, HEADER_SECONDS = 32 * 2**10, 10.0
# Connections that are open at once; more are refused with 503.
CONNECTIONS = 1024


@dataclass(frozen=True)
class ServeSettings:
    """What `owl serve` is asked for.

    Args:
        models: Each as `load` opens it, or NAME=MODEL.
        host: The address to listen on.
        port: Its port; 0 takes a free one.
        keys: A file of keys; those of OWL_API_KEYS count too.
        auth: Whether a key is needed.
        hosts: Hosts whose pictures are fetched.
        device: Where models go; None takes the best there is.
        dtype: What weights are kept in.
        grace_seconds: For the last answers after SIGTERM.
        stats: Print a line for each answer.
        limits: All other limits.
    """

    models: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    auth: bool = True
    hosts: Sequence[str] = ()
    device: str | None = None
    dtype: str = "auto"
    grace_seconds: float = 60.0
    stats: bool = False
    limits: ServeLimits = field(default_factory=ServeLimits)


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what was accepted.

    Raises:
        UserError: There are no keys, no such model, or the port cannot be had.
    """
    local = is_local(settings.host)
    if not settings.auth and not local:
        raise UserError(f"--no-auth is for this machine alone and --host is {settings.host}; give --keys FILE")
    keys = Keys.read(settings.keys, os.environ.get("OWL_API_KEYS")) if settings.auth else None
    limits, names = settings.limits, named(settings.models)
    fetcher = Fetcher(settings.hosts, limits.media.file_bytes, limits.media.seconds) if settings.hosts else None
    # before models are loaded, so that a wrong port is said at once
    with bound(settings.host, settings.port) as listening:
        server = Server(
            open_models(names, settings.device, settings.dtype), keys, limits, fetcher, local and keys is None, settings.stats
        )
        listening.listen(CONNECTIONS)
        print(_first_line(server, settings, listening), flush=True)
        asyncio.run(_run(server, settings, listening))


async def _run(server: Server, settings: ServeSettings, listening: socket.socket) -> None:
    config = uvicorn.Config(
        server.app,
        http=PatientProtocol,
        ws="none",
        log_level="warning",
        server_header=False,
        access_log=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=max(1, int(settings.grace_seconds)),
    )
    await Draining(config).serve(sockets=[listening])


class Draining(uvicorn.Server):
    """uvicorn, which takes no more connections once it is asked to stop, and ends by itself after the last answer.

    uvicorn's own server ends by the signal that it got; who asked politely expects exit code 0.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C while the server runs."""
        endings = (signal.SIGTERM, signal.SIGINT)
        before = {ending: signal.signal(ending, self.handle_exit) for ending in endings}
        try:
            yield
        finally:
            for ending, handler in before.items():
                signal.signal(ending, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first time drains; Ctrl-C once more ends at once."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        if not self.should_exit:
            print("owl: answering what was accepted, then leaving", file=sys.stderr, flush=True)
        self.should_exit = True


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, for clients that send a request's head in time: others are disconnected."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head. uvicorn times the later ones."""
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def _first_line(server: Server, settings: ServeSettings, listening: socket.socket) -> str:
    """Where, which models, on what device, and how much at once."""
    devices = dict.fromkeys(str(owl.model.device) for owl in server.owls.values())
    limits = server.limits
    return (
        f"{base_address(settings.host, listening)}/v1 · {', '.join(server.owls)} on {', '.join(devices)} · "
        f"{limits.lane.rows} answers at once, {limits.queue} waiting, of at most {limits.answers.most_tokens} tokens and "
        f"{limits.answers.seconds:g} s · {'keys' if settings.auth else 'no keys, this machine alone'}"
    )
