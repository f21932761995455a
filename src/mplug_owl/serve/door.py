"""Browsers' way through the lock: whoever shows a key gets a session, whose cookie stands for that key afterwards.

The lock itself stays `Guard`: a cookie becomes the header that it asks for. Of what Gradio serves only what its chat needs is
let through, so that a route which another version brings is closed.
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs

from mplug_owl.page.render import render
from mplug_owl.serve.guard import App, Keys, Message, Receive, Scope, Send, refuse
from mplug_owl.serve.protocol import RequestError

WEB = "/web"
UPLOAD = f"{WEB}/gradio_api/upload"
SESSION_SECONDS, SESSIONS = 12 * 3600, 1000
COOKIE = "owl_session"
SESSION_ROUTES = (("POST", f"{WEB}/enter"), ("GET", f"{WEB}/leave"))
FORM_BYTES, FORM_SECONDS = 4096, 10.0
# What the page of a chat asks for (Gradio 6.31); everything else is not found. A file is a path here: Gradio would fetch an
# address, and show what is there as its own.
OPEN = {
    "GET": re.compile(
        rf"{WEB}/?|{WEB}/(?:config|theme\.css|favicon\.ico|manifest\.json|(?:assets|static)/[\w@./-]+)|"
        rf"{WEB}/gradio_api/(?:info|startup-events|app_id|upload_progress|queue/data|heartbeat/\w+|file=(?!\w\w+:).+)"
    ),
    "POST": re.compile(rf"{WEB}/gradio_api/(?:queue/join|run/predict|upload|cancel|reset)/?"),
}
# The page talks to nobody but its server, and shows nothing from elsewhere: an answer may hold the address of a picture.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' blob:; worker-src 'self' blob:; font-src 'self' data:; connect-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
)


# Without a referrer a browser would not say, either, that a form comes from here.
OURS = {b"content-security-policy": POLICY.encode(), b"referrer-policy": b"same-origin"}


class Sessions:
    """Who showed which key, by a token that only their browser has.

    Args:
        keys: What opens the door.
        clock: Seconds, as time.monotonic gives them.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self.keys, self._clock = keys, clock
        self._known: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def begin(self, key: bytes) -> str | None:
        """The token of a new session; None where the key opens nothing. The oldest session goes when there are too many."""
        if self.keys.owner(key) is None:
            return None
        token = secrets.token_urlsafe(32)
        self._known[_digest(token)] = key, self._clock() + SESSION_SECONDS
        while len(self._known) > SESSIONS:
            self._known.popitem(last=False)
        return token

    def key(self, token: str | None) -> bytes | None:
        """The key that a session's owner showed; None for none, and for one that is over."""
        found = self._known.get(_digest(token)) if token else None
        if found is None or self._clock() >= found[1]:
            return None
        return found[0]

    def end(self, token: str | None) -> None:
        """Forget a session."""
        if token:
            self._known.pop(_digest(token), None)


class Door:
    """The application with its page: sessions before the lock, and nothing of Gradio's that the page does not need.

    Args:
        app: The locked application.
        sessions: Who is let in by a cookie; None where no keys are needed.
    """

    def __init__(self, app: App, sessions: Sessions | None) -> None:
        self.app, self.sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what belongs to sessions, refuse what the page does not need, and pass the rest on to the lock."""
        if scope["type"] != "http" or not (scope["path"] == WEB or scope["path"].startswith(f"{WEB}/")):
            await self.app(scope, receive, send)
            return
        send = _policed(send)
        try:
            _refuse_strangers(scope["method"], scope["headers"])
            if self.sessions is not None and (scope["method"], scope["path"]) in SESSION_ROUTES:
                await self._session(scope, receive, send)
                return
            cookie = _cookie(scope["headers"])
            key = self.sessions.key(cookie) if self.sessions is not None else None
            named = any(name == b"authorization" for name, _ in scope["headers"])
            if key is not None and not named:
                scope = {**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer " + key)]}
            elif self.sessions is not None and not named and scope["method"] == "GET" and scope["path"].rstrip("/") == WEB:
                await _page(401, "", send)
                return
            if (key is not None or named or self.sessions is None) and not _is_open(scope):
                raise RequestError(404, "there is no such address")
        except RequestError as error:
            await refuse(error, send)
            return
        await self.app(scope, receive, send)

    async def _session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin a session with the key of a form, or end one."""
        assert self.sessions is not None  # noqa: S101  (the caller looked)
        if scope["path"] == f"{WEB}/leave":
            self.sessions.end(_cookie(scope["headers"]))
            await _see(f"{COOKIE}=; Path={WEB}; Max-Age=0; HttpOnly; SameSite=Strict", send)
            return
        fields = parse_qs((await _form(receive)).decode("latin-1"))
        token = self.sessions.begin(fields.get("key", [""])[0].strip().encode("latin-1", "replace"))
        if token is None:
            await _page(401, "This key opens nothing here.", send)
            return
        secure = "; Secure" if dict(scope["headers"]).get(b"x-forwarded-proto") == b"https" else ""
        await _see(f"{COOKIE}={token}; Path={WEB}; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{secure}", send)


async def _form(receive: Receive) -> bytes:
    """A short form. Raises RequestError where it is too long or too slow."""
    body = b""
    try:
        async with asyncio.timeout(FORM_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if message["type"] != "http.request" or len(body) > FORM_BYTES:
                    raise RequestError(413, "the form is too long")
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise RequestError(408, "the body took too long to arrive") from None


def _refuse_strangers(method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise RequestError where a page of another site sent this request, by what browsers say of themselves."""
    found = dict(headers)
    site, origin = found.get(b"sec-fetch-site"), found.get(b"origin")
    if site is not None:  # no script can set it; a link to here is followed, and brings no cookie
        followed = method == "GET" and found.get(b"sec-fetch-mode") == b"navigate"
        foreign = site not in (b"same-origin", b"none") and not followed
    else:
        foreign = origin is not None and origin.partition(b"://")[2] != found.get(b"host")
    if foreign:
        raise RequestError(403, "this page answers its own site alone")


def _is_open(scope: Scope) -> bool:
    pattern = OPEN.get("GET" if scope["method"] == "HEAD" else scope["method"])
    return pattern is not None and pattern.fullmatch(scope["path"]) is not None and ".." not in scope["path"]


def _cookie(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token of a session; None where there is none, or more than one."""
    found = [
        part.strip().partition(b"=")[2]
        for name, value in headers
        if name == b"cookie"
        for part in value.split(b";")
        if part.strip().partition(b"=")[0] == COOKIE.encode()
    ]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _policed(send: Send) -> Send:
    """Send with the page's policy."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in OURS]
            message["headers"] = [*kept, *OURS.items()]
        await send(message)

    return sent


async def _page(status: int, problem: str, send: Send) -> None:
    """The page that asks for a key."""
    body = render("serve/door.html.jinja", title="owl", action=f"{WEB}/enter", problem=problem).encode()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _see(cookie: str, send: Send) -> None:
    """Go to the page, with a cookie."""
    headers = [(b"location", f"{WEB}/".encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": [*headers, (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b""})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()
