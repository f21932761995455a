"""The lock before every route: who may ask, how much, and how slowly. Whatever it does not know is refused.

It wraps the whole application, so that a route that somebody adds later is locked too.
"""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mplug_owl.errors import UserError
from mplug_owl.page.listening import is_local
from mplug_owl.serve.protocol import RequestError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHORTEST_KEY = 16
# Browsers are to keep nothing, guess nothing and embed nothing.
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True)
class GuardLimits:
    """What one request may send, and how long it may take to.

    Args:
        body_bytes: The largest body.
        held_bytes: All bodies that are held at once.
        body_seconds: For the whole body to arrive.
        send_seconds: For a client to take what is sent.
        url_bytes: The longest path and query.
        header_bytes: All headers together. A server that reads them in large parts lets more through.
    """

    body_bytes: int = 20 * 2**20
    held_bytes: int = 256 * 2**20
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    url_bytes: int = 2048
    header_bytes: int = 32 * 2**10


class Keys:
    """The keys that open the door. Each is its owner's name as well: nothing computed for one is used for another."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, file: Path | None, environment: str | None) -> "Keys":
        """Keys from a file, one a line, and from the environment, with commas between them.

        Raises:
            UserError: There are none, the file cannot be read, or a key can be guessed.
        """
        lines = (environment or "").split(",")
        if file is not None:
            try:
                lines += [line for line in file.read_text("utf-8").splitlines() if not line.startswith("#")]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: its keys cannot be read; expected a key a line") from error
        keys = [line.strip() for line in lines if line.strip()]
        if not keys:
            raise UserError("no keys: give --keys FILE, or OWL_API_KEYS, or --no-auth for this machine alone")
        for number, key in enumerate(keys, 1):
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise UserError(
                    f"key {number} can be guessed or cannot be sent: expected at least {SHORTEST_KEY} ASCII characters without "
                    "spaces, as `openssl rand -hex 32` makes them"
                )
        return cls(keys)

    def owner(self, given: bytes) -> bytes | None:
        """Whose key this is; None for nobody's. Every key is compared, each in constant time."""
        digest, owner = _digest(given), None
        for known in self._digests:
            if hmac.compare_digest(digest, known):
                owner = known
        return owner


class Guard:
    """An ASGI application with a lock before it.

    Args:
        app: What is locked.
        keys: What opens it; None lets everybody in, which is for this machine alone.
        limits: What one request may send.
        local: Answer only where this machine is addressed by its local names, so that no site can pose as it.
    """

    def __init__(self, app: App, keys: Keys | None, limits: GuardLimits, local: bool) -> None:
        self.app, self.keys, self.limits, self.local = app, keys, limits, local
        self.held = 0
        self.forms: Collection[str] = ()  # paths that take a browser's files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its whole body and its owner."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        taking = _Taking(send, self.limits.send_seconds)
        try:
            await self._answer(scope, receive, taking)
        except Exception:
            if not taking.given_up:
                raise
            # else nobody reads what went wrong; the server before us ends the connection

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope.setdefault("state", {})["owner"] = self._owner(scope)
            self._refuse_shape(scope)
            body = await self._body(receive)
        except RequestError as error:
            await refuse(error, send)
            return
        try:
            await self.app(scope, _replayed(body, receive), send)
        finally:
            self.held -= len(body)

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """A block in which so many more bytes are held. Raises RequestError where they are too many."""
        if self.held + count > self.limits.held_bytes:
            raise RequestError(503, "too many large requests at once; try again in a moment")
        self.held += count
        try:
            yield
        finally:
            self.held -= count

    def _owner(self, scope: Scope) -> bytes:
        """Whose request it is. Raises RequestError where that is nobody."""
        headers = scope["headers"]
        if self.local and not is_local(_host(headers) or ""):
            raise RequestError(421, "this server answers this machine alone")
        if self.keys is None:
            return b""
        given = [value for name, value in headers if name == b"authorization"]
        kind, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        owner = self.keys.owner(key.strip()) if kind.lower() == b"bearer" else None
        if owner is None:
            raise RequestError(401, "no valid key; expected the header Authorization: Bearer KEY", code="invalid_api_key")
        return owner

    def _refuse_shape(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self.limits.header_bytes:
            raise RequestError(431, f"the headers have more than {self.limits.header_bytes:,} bytes")
        if scope.get("http_version", "1.1") not in ("1.0", "1.1"):
            raise RequestError(400, "this server speaks HTTP/1.1")
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise RequestError(400, "a body has a length or comes in chunks; this one says both")
        if len(scope.get("raw_path") or scope["path"].encode()) + len(scope.get("query_string", b"")) > self.limits.url_bytes:
            raise RequestError(414, "the address is too long")
        length = headers.get(b"content-length")
        if length is not None and (not re.fullmatch(rb"\d{1,12}", length) or int(length) > self.limits.body_bytes):
            raise RequestError(413, f"the body has more than {self.limits.body_bytes:,} bytes")
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_form = kind == b"multipart/form-data" and scope["path"] in self.forms
        if scope["method"] == "POST" and kind != b"application/json" and not is_form:
            raise RequestError(415, "expected Content-Type: application/json")  # what a page of another site cannot send
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError(415, "packed bodies are not read; leave Content-Encoding out")

    async def _body(self, receive: Receive) -> bytes:
        """The whole body, which is counted as held. Raises RequestError where it is too much, or too slow."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise RequestError(400, "the client left")
                    part = message.get("body", b"")
                    self.held += len(part)
                    body += part
                    if len(body) > self.limits.body_bytes:
                        raise RequestError(413, f"the body has more than {self.limits.body_bytes:,} bytes")
                    if self.held > self.limits.held_bytes:
                        raise RequestError(503, "too many large requests at once; try again in a moment")
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            self.held -= len(body)
            raise RequestError(408, "the body took too long to arrive") from None
        except BaseException:
            self.held -= len(body)
            raise


class _Taking:
    """Sends with our headers, to a client that takes it in time."""

    def __init__(self, send: Send, seconds: float) -> None:
        self.send, self.seconds, self.given_up = send, seconds, False

    async def __call__(self, message: Message) -> None:
        """Send a message. Raises OSError where the client takes nothing."""
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [*message.get("headers", ()), *(header for header in HEADERS if header[0] not in there)]
        try:
            async with asyncio.timeout(self.seconds):
                await self.send(message)
        except TimeoutError:
            self.given_up = True
            raise OSError("the client takes nothing") from None


async def refuse(error: RequestError, send: Send) -> None:
    """Answer with an error, and close the connection: the rest of what is refused is not read."""
    body = json.dumps(error.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, once more; after it whatever else comes, which is that the client left."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _host(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The name by which this server was addressed; None where that is not one name."""
    hosts = [value for name, value in headers if name == b"host"]
    try:
        return urlsplit(f"//{hosts[0].decode('ascii')}").hostname if len(hosts) == 1 else None
    except ValueError:
        return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
