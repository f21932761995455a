"""The lock, before an application that would let everybody in."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.errors import UserError
from mplug_owl.serve.guard import Guard, GuardLimits, Keys
from tests.serve.served import KEY, OTHER

LIMITS = GuardLimits(body_bytes=1000, held_bytes=1500, body_seconds=0.2, send_seconds=0.2)
JSON = (b"content-type", b"application/json")
AUTH = (b"authorization", f"Bearer {KEY}".encode())


async def open_door(scope: Any, receive: Any, send: Any) -> None:
    """What is locked: it answers with the body that it got."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def ask(guard: Guard, *headers: tuple[bytes, bytes], method: str = "POST", parts: Any = (b"{}",), **scope: Any) -> Any:
    """Status, headers and body of a response; a part of a request that is None never comes."""
    sent: list[Any] = []
    left = list(parts)

    async def receive() -> Any:
        part = left.pop(0)
        if part is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": "http", "method": method, "path": "/x", "query_string": b"", "headers": list(headers), **scope}
    asyncio.run(guard(whole, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def guard() -> Guard:
    return Guard(open_door, Keys([OTHER, KEY]), LIMITS, local=False)


def test_a_key_opens_and_its_owner_is_known(guard: Guard) -> None:
    status, headers, body = ask(guard, AUTH, JSON, parts=(b"{", b"}"))
    assert (status, body) == (200, b"{}")
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b"access-control-allow-origin" not in headers
    assert guard.held == 0
    keys = Keys([OTHER, KEY])
    assert keys.owner(KEY.encode()) != keys.owner(OTHER.encode())
    assert keys.owner(b"\xff") is None


@pytest.mark.parametrize(
    ("status", "headers", "more"),
    [
        (401, [JSON], {}),
        (401, [JSON, AUTH, AUTH], {}),
        (401, [JSON, (b"authorization", b"bearer")], {}),
        (415, [AUTH], {}),
        (415, [AUTH, (b"content-type", b"text/plain")], {}),
        (415, [AUTH, JSON, (b"content-encoding", b"gzip")], {}),
        (413, [AUTH, JSON, (b"content-length", b"1001")], {}),
        (413, [AUTH, JSON, (b"content-length", b"-1")], {}),
        (413, [AUTH, JSON, (b"content-length", b"1e3")], {}),
        (413, [AUTH, JSON], {"parts": (b"x" * 600, b"x" * 600)}),
        (414, [AUTH, JSON], {"path": "/" + "x" * 3000}),
        (414, [AUTH, JSON], {"query_string": b"x" * 3000}),
        (408, [AUTH, JSON], {"parts": (b"{", None)}),
    ],
)
def test_what_is_refused(guard: Guard, status: int, headers: Any, more: Any) -> None:
    found, answered, body = ask(guard, *headers, **more)
    assert found == status
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    assert answered[b"connection"] == b"close"
    assert guard.held == 0


def test_all_bodies_at_once_are_limited(guard: Guard) -> None:
    guard.held = 1000
    assert ask(guard, AUTH, JSON, parts=(b"x" * 600,))[0] == 503
    assert guard.held == 1000


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1:8000", 200),
        (b"localhost", 200),
        (b"[::1]:80", 200),
        (b"127.0.0.2:8000", 200),
        (b"evil.example", 421),
        (b"127.0.0.1.evil.example", 421),
        (b"", 421),
    ],
)
def test_without_keys_only_local_names_are_answered(host: bytes, status: int) -> None:
    """CVE-2026-48710 and DNS rebinding: a page of another site may reach this port, and has another name."""
    guard = Guard(open_door, None, LIMITS, local=True)
    assert ask(guard, JSON, (b"host", host))[0] == status
    assert ask(guard, JSON, (b"host", b"localhost"), (b"host", b"evil.example"))[0] == 421


def test_a_client_that_takes_nothing_is_left(guard: Guard) -> None:
    async def run() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Any) -> None:
            await asyncio.sleep(60)

        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [AUTH, JSON]}
        await guard(scope, receive, send)

    begin = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - begin < 30
    assert guard.held == 0


def test_a_websocket_is_closed(guard: Guard) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard({"type": "websocket", "path": "/", "headers": [AUTH]}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_keys_are_read_and_short_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n")
    keys = Keys.read(file, f"{OTHER}, ")
    assert keys.owner(KEY.encode())
    assert keys.owner(OTHER.encode())
    assert keys.owner(b"# ours") is None
    for text, words in (
        ("", "no keys"),
        ("short", "^key 1 can be guessed or cannot be sent: expected at least 16"),
        ("a b" * 9, "without spaces"),
        ("ä" * 20, "ASCII"),
    ):
        with pytest.raises(UserError, match=words):
            Keys.read(None, text)
    with pytest.raises(UserError, match="cannot be read"):
        Keys.read(tmp_path / "none", None)
