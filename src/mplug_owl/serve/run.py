"""A server from beginning to end: one line when it begins, every accepted request answered when it is asked to stop."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mplug_owl.errors import UserError
from mplug_owl.model.kernel_caches import ANSWERING, bound_kernel_caches
from mplug_owl.model.load import Owl
from mplug_owl.model.locate import BUNDLED
from mplug_owl.model.quantised import Quantisation
from mplug_owl.page.listening import base_address, bound, is_local
from mplug_owl.serve.api import ServeLimits, Server
from mplug_owl.serve.door import WEB
from mplug_owl.serve.fetch import Fetcher
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.models import named, open_models

# A request line and its headers have so many bytes at most, and so many seconds to arrive.
HEADER_BYTES, HEADER_SECONDS = 32 * 2**10, 10.0
# What is sent has to be taken in so many seconds.
TAKING_SECONDS = 30.0
# Connections are looked at so often, in seconds.
WATCHED_EVERY = 1.0
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
        quantize: Keep the language models' linear layers in 8 or 4 bits.
        grace_seconds: For the last answers after SIGTERM.
        stats: Print a line for each answer.
        web: Serve the page to talk on, too.
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
    quantize: Quantisation | None = None
    grace_seconds: float = 60.0
    stats: bool = False
    web: bool = False
    limits: ServeLimits = field(default_factory=ServeLimits)


def serve(settings: ServeSettings, owls: Mapping[str, Owl] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what was accepted.

    Args:
        settings: All that is asked for.
        owls: Models that are loaded already, by their names, in place of those that the settings name.

    Raises:
        UserError: There are no keys, no such model, no Gradio for the page, or the port cannot be had.
    """
    if settings.web and find_spec("gradio") is None:
        raise UserError("--web needs gradio: pip install 'mplug-owl[web]'")
    local = is_local(settings.host)
    if not settings.auth and not local:
        raise UserError(f"--no-auth is for this machine alone and --host is {settings.host}; give --keys FILE")
    keys = Keys.read(settings.keys, os.environ.get("OWL_API_KEYS")) if settings.auth else None
    limits, names = settings.limits, named(settings.models)
    bound_kernel_caches(ANSWERING)
    fetcher = Fetcher(settings.hosts, limits.media.file_bytes, limits.media.seconds) if settings.hosts else None
    # before models are loaded, so that a wrong port is said at once
    with bound(settings.host, settings.port) as listening:
        if owls is None:
            owls = open_models(names, settings.device, settings.dtype, settings.quantize)
        server = Server(owls, keys, limits, fetcher, local and keys is None, settings.stats)
        if settings.web:
            from mplug_owl.serve.web import add_page  # which needs an extra of its own

            add_page(server, keys, [name for name, path in names.items() if path in BUNDLED])
        server.media.warm()  # last: processes and threads run from here on, which would outlive an error
        listening.listen(CONNECTIONS)
        print(_first_line(server, settings, listening), flush=True)
        asyncio.run(draining(server, settings.grace_seconds).serve(sockets=[listening]))


def draining(server: Server, grace_seconds: float) -> "Draining":
    """The HTTP server before a server's routes; its `serve` listens on sockets until it is asked to stop."""
    config = uvicorn.Config(
        server.app,
        http=PatientProtocol,
        ws="none",
        log_level="error",  # its warnings are what strangers send
        server_header=False,
        access_log=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=max(1, int(grace_seconds)),
    )
    return Draining(config, server.endless)


class Draining(uvicorn.Server):
    """uvicorn, which takes no more connections once it is asked to stop, and ends by itself after the last answer.

    uvicorn's own server ends by the signal that it got; who asked politely expects exit code 0.
    """

    def __init__(self, config: uvicorn.Config, endless: Iterable[Callable[[], None]] = ()) -> None:
        super().__init__(config)
        self.endless = endless

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would never end by itself, and wait for the rest."""
        for end in self.endless:
            end()
        await super().shutdown(sockets)

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
    """uvicorn's HTTP, for clients that send a request's head and take its answer in time: others are disconnected.

    uvicorn itself waits for ever for the rest of a head, and for a client that does not read.
    """

    def connection_made(self, transport: Any) -> None:
        """Begin to look at the connection."""
        super().connection_made(transport)
        self._request, self._idle = self.cycle, 0.0  # the last request, seconds since it
        self._unread, self._stuck = 0, 0.0  # bytes that wait for the client, seconds in which they became no fewer
        self._watch()

    def _watch(self) -> None:
        if self not in self.connections:  # it is lost
            return
        is_idle = self.conn.their_state is h11.IDLE and self.cycle is self._request
        self._idle = self._idle + WATCHED_EVERY if is_idle else 0.0
        unread, before = self.transport.get_write_buffer_size(), self._unread
        self._stuck = self._stuck + WATCHED_EVERY if unread and unread >= before else 0.0
        self._unread = unread
        self._request = self.cycle
        if self._stuck > TAKING_SECONDS:  # to close it would wait for what is not read
            self.transport.abort()
        elif self._idle > HEADER_SECONDS:
            self.transport.close()
        self.loop.call_later(WATCHED_EVERY, self._watch)


def _first_line(server: Server, settings: ServeSettings, listening: socket.socket) -> str:
    """Where, which models, on what device, and how much at once."""
    devices = dict.fromkeys(str(owl.model.device) for owl in server.owls.values())
    limits = server.limits
    page = f" · page {base_address(settings.host, listening)}{WEB}/" if settings.web else ""
    return (
        f"{base_address(settings.host, listening)}/v1{page} · {', '.join(server.owls)} on {', '.join(devices)} · "
        f"{limits.lane.rows} answers at once, {limits.queue} waiting, of at most {limits.answers.most_tokens} tokens and "
        f"{limits.answers.seconds:g} s · {'keys' if settings.auth else 'no keys, this machine alone'}"
    )
