"""A server behind a socket: it drains when it is asked to stop, and leaves clients that take for ever."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi.responses import StreamingResponse

from benchmarks.serve_client import Reply, ask, question, served
from mplug_owl.errors import UserError
from mplug_owl.model.kernel_caches import ANSWERING
from mplug_owl.model.load import Owl
from mplug_owl.serve import run as run_module
from mplug_owl.serve.api import Server
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.run import ServeSettings, serve
from tests.chat.test_decode import made
from tests.serve.hostile import get
from tests.serve.running import exchange, running
from tests.serve.served import KEY

HEALTH = get("/health")


@pytest.fixture(scope="module")
def owl() -> Owl:
    return made("llama")


def asked(number: int) -> dict[str, object]:
    return question(f"{number}?", model="owl", max_tokens=60 + number, stream=number % 2 == 0) | (
        {} if number % 2 == 0 else {"stream_options": None}
    )


async def refused(port: int) -> bool:
    """Whether nobody listens there any more."""
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return False
    return True


def test_what_was_accepted_is_answered_after_sigterm(owl: Owl) -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def run() -> list[Reply]:
        server = Server({"owl": owl}, Keys([KEY]))
        async with running(server) as (port, _):
            tasks = [asyncio.create_task(ask(port, asked(number), KEY)) for number in range(12)]
            lane = server.engine.batches["owl"]
            while len(getattr(lane, "running")) < 12:  # noqa: B009  (a Batch has none; a Lane has)
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGTERM)
            while not await refused(port):
                await asyncio.sleep(0.01)
            return list(await asyncio.gather(*tasks))

    replies = asyncio.run(run())
    assert [(reply.status, reply.whole) for reply in replies] == [(200, True)] * 12
    assert [reply.tokens for reply in replies] == [60 + number for number in range(12)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_head_that_does_not_come_is_not_waited_for(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the head of a second request: uvicorn stops its own clock at the first byte."""
    monkeypatch.setattr(run_module, "HEADER_SECONDS", 0.2)
    monkeypatch.setattr(run_module, "WATCHED_EVERY", 0.05)

    async def slow(port: int, first: bytes) -> tuple[bytes, float]:
        """Send a request, then a head byte by byte; what came back, and after how long the door closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        found = await reader.readuntil(b"}") if first else b""
        begin = time.monotonic()
        with suppress(OSError):
            for letter in HEALTH * 10:
                writer.write(bytes([letter]))
                await writer.drain()
                if reader.at_eof():
                    break
                with suppress(TimeoutError):
                    found += await asyncio.wait_for(reader.read(1), 0.05)
        writer.close()
        return found, time.monotonic() - begin

    async def run() -> None:
        async with running(Server({"owl": owl}, Keys([KEY]))) as (port, _):
            (nothing, first), (one, second), idle = await asyncio.gather(
                slow(port, b""), slow(port, HEALTH), exchange(port, b"")
            )
            assert (nothing, idle) == (b"", b"")
            assert one.count(b"HTTP/1.1 200") == 1
            assert first < 10  # all of it would take a minute
            assert second < 10

    asyncio.run(run())


def test_a_client_that_reads_nothing_is_left(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "TAKING_SECONDS", 0.2)
    monkeypatch.setattr(run_module, "WATCHED_EVERY", 0.05)

    async def run() -> None:
        async with running(Server({"owl": owl}, Keys([KEY])), small=True) as (port, http):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                await asyncio.get_running_loop().sock_sendall(client, get("/metrics") * 20)
                while not http.server_state.connections:
                    await asyncio.sleep(0.001)
                end = time.monotonic() + 20
                while http.server_state.connections:
                    assert time.monotonic() < end, "the connection is still there"
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_client_that_reads_slowly_is_not_left(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a slow line something always waits to be sent, and gets less."""
    monkeypatch.setattr(run_module, "TAKING_SECONDS", 0.3)
    monkeypatch.setattr(run_module, "WATCHED_EVERY", 0.05)
    server, size = Server({"owl": owl}, Keys([KEY])), 300_000

    @server.routes.get("/large")
    async def large() -> StreamingResponse:
        return StreamingResponse(iter([b"x" * size]))

    async def run() -> int:
        async with running(server, small=True) as (port, _):
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                loop, found = asyncio.get_running_loop(), 0
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, get("/large", "Connection: close"))
                while part := await loop.sock_recv(client, 8192):
                    found += part.count(b"x")
                    await asyncio.sleep(0.02)
                return found

    with suppress(ConnectionResetError):
        assert asyncio.run(run()) >= size
        return
    pytest.fail("the connection was ended")


def test_no_keys_is_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OWL_API_KEYS", raising=False)
    with pytest.raises(UserError, match="this machine alone"):
        serve(ServeSettings(["owl-tiny"], host="0.0.0.0", auth=False))
    with pytest.raises(UserError, match="no keys"):
        serve(ServeSettings(["owl-tiny"]))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="another --host or --port"):
        serve(ServeSettings(["nowhere"], port=taken.getsockname()[1], auth=False))


@pytest.mark.slow
def test_a_process_under_load_answers_and_leaves_with_0(tmp_path: Path) -> None:
    """`kill -TERM` while 16 clients ask: whoever had a word got all of them, and nobody half an answer."""
    (tmp_path / "keys").write_text(KEY)
    command = [sys.executable, "-m", "mplug_owl_cli", "serve", "owl-tiny", "--port", "0", "--device", "cpu", "--grace", "30"]

    async def client(port: int, replies: list[Reply]) -> None:
        while True:
            reply = await ask(port, question("Describe the picture.", max_tokens=64), KEY)
            replies.append(reply)
            if reply.status == 0:
                return

    async def load(port: int, process: "subprocess.Popen[str]") -> list[Reply]:
        replies: list[Reply] = []
        clients = [asyncio.create_task(client(port, replies)) for _ in range(16)]
        while len(replies) < 64:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        return replies

    with served([*command, "--keys", str(tmp_path / "keys")]) as (port, process):
        replies = asyncio.run(load(port, process))
        assert process.wait(30) == 0
    answered = [reply for reply in replies if reply.status]
    assert len(answered) >= 64
    assert all(reply.status == 200 and reply.whole for reply in answered)


def test_a_page_without_gradio_is_refused_before_models_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was said after the process for pictures had begun, which then kept the command from ending."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"gradio: pip install 'mplug-owl\[web\]'"):
        serve(ServeSettings(("no-such-model",), auth=False, web=True))


def test_kernels_that_a_server_keeps_are_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Requests have ever-new lengths: benchmarks.serve_load shows what it is for."""
    kept: list[int] = []
    monkeypatch.setattr(run_module, "bound_kernel_caches", kept.append)
    with pytest.raises(UserError, match="nobody"):
        serve(ServeSettings((str(tmp_path / "nobody"),), port=0, auth=False))
    assert kept == [ANSWERING]


def test_what_would_never_end_by_itself_does_not_use_up_the_grace(owl: Owl) -> None:
    """An open page holds such a request; the server ends it, and waits for answers alone."""
    server = Server({"owl": owl}, Keys([KEY]))

    async def run() -> float:
        begun, over = asyncio.Event(), asyncio.Event()
        server.endless.append(over.set)

        @server.routes.get("/endless")
        async def endless() -> StreamingResponse:
            async def parts() -> AsyncIterator[bytes]:
                begun.set()
                yield b"x"
                await over.wait()

            return StreamingResponse(parts())

        async with running(server, grace=20.0) as (port, _):
            reading = asyncio.create_task(exchange(port, HEALTH.replace(b"/health", b"/endless")))
            await begun.wait()
            begin = time.perf_counter()
        assert b"x" in await reading
        return time.perf_counter() - begin

    assert asyncio.run(run()) < 10
