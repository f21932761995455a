"""Browsers' way through the lock, before an application that would let everybody in."""

import asyncio
from typing import Any

import pytest

from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import load
from mplug_owl.scenes import scene
from mplug_owl.serve.door import SESSION_SECONDS, SESSIONS, UPLOAD, WEB, Door, Sessions
from mplug_owl.serve.guard import Guard, GuardLimits, Keys
from mplug_owl.serve.web import EXAMPLES
from tests.serve.served import KEY, OTHER
from tests.serve.test_guard import open_door

HOST = (b"host", b"owl.example")
FORM = (b"content-type", b"application/x-www-form-urlencoded")


@pytest.fixture
def door() -> Door:
    return made(Keys([KEY, OTHER]))


def made(keys: Keys | None) -> Door:
    guard = Guard(open_door, keys, GuardLimits(), local=False)
    guard.forms = (UPLOAD,)
    return Door(guard, None if keys is None else Sessions(keys))


def ask(door: Door, path: str, *headers: tuple[bytes, bytes], method: str = "GET", body: bytes = b"") -> Any:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [HOST, *headers]}
    asyncio.run(door(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


def entered(door: Door, key: str = KEY) -> tuple[bytes, bytes]:
    """The cookie of somebody who showed a key."""
    status, headers, _ = ask(door, f"{WEB}/enter", FORM, method="POST", body=f"key={key}".encode())
    assert (status, headers[b"location"]) == (303, f"{WEB}/".encode())
    cookie = headers[b"set-cookie"]
    assert all(word in cookie for word in (b"HttpOnly", b"SameSite=Strict", f"Path={WEB}".encode()))
    return (b"cookie", cookie.partition(b";")[0])


@pytest.mark.parametrize("path", [WEB, f"{WEB}/"])
def test_who_has_no_session_is_asked_for_a_key(door: Door, path: str) -> None:
    status, headers, body = ask(door, path)
    assert status == 401
    assert b'<form method="post"' in body
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-frame-options"] == b"DENY"


def test_a_key_opens_until_one_leaves(door: Door) -> None:
    cookie = entered(door)
    assert ask(door, f"{WEB}/", cookie)[0] == 200
    assert ask(door, f"{WEB}/config", cookie)[0] == 200
    assert ask(door, f"{WEB}/leave", cookie)[0] == 303
    assert ask(door, f"{WEB}/", cookie)[0] == 401


def test_a_wrong_key_opens_nothing(door: Door) -> None:
    for key in ("", "x" * 32, "%ff%00", KEY + "x"):
        status, headers, body = ask(door, f"{WEB}/enter", FORM, method="POST", body=f"key={key}".encode())
        assert status == 401
        assert b"set-cookie" not in headers
        assert b"opens nothing" in body
    assert ask(door, f"{WEB}/enter", FORM, method="POST", body=b"key=" + b"x" * 5000)[0] == 413


@pytest.mark.parametrize(
    "cookie", [b"", b"owl_session=", b"owl_session=x", b"owl_session=\xff", b"other=1", b"owl_session=a; owl_session=b"]
)
def test_another_cookie_opens_nothing(door: Door, cookie: bytes) -> None:
    entered(door)
    assert ask(door, f"{WEB}/config", (b"cookie", cookie))[0] == 401


def test_a_cookie_opens_the_page_alone(door: Door) -> None:
    """The interface wants its header, so that no page of another site reaches it by a browser's cookies."""
    cookie = entered(door)
    for path in ("/v1/models", "/metrics", "/webs", "/WEB/"):
        assert ask(door, path, cookie)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring",
        "/monitoring/summary",
        "/openapi.json",
        "/docs",
        "/login",
        "/logout",
        "/svelte/x",
        "/gradio_api/proxy=x",
        "/gradio_api/runs",
        "/gradio_api/token",
        "/gradio_api/custom_component/a/client/b/c.py",
        "/gradio_api/deep_link",
        "/assets/../../etc/passwd",
        "/gradio_api/vibe-code",
        "/gradio_api/file/x",
        "/gradio_api/dev/reload",
        "/gradio_api/call/answer/x",
        "/gradio_api/file=http://evil.example/a.html",
        "/gradio_api/file=https:/evil.example/a.html",
    ],
)
def test_what_the_page_does_not_need_is_not_there(door: Door, path: str) -> None:
    cookie = entered(door)
    assert ask(door, WEB + path, cookie)[0] == 404
    assert ask(door, WEB + path, (b"authorization", f"Bearer {KEY}".encode()))[0] == 404
    assert ask(door, WEB + path)[0] == 401
    assert ask(made(None), WEB + path)[0] == 404


def test_a_picture_of_the_page_is_there(door: Door) -> None:
    """By its path, whatever its name holds."""
    cookie = entered(door)
    for path in ("/tmp/owl-web-a/b/a: b.png", "C:/owl-web-a/b.png"):
        assert ask(door, f"{WEB}/gradio_api/file={path}", cookie)[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_not_there(door: Door, method: str) -> None:
    assert ask(door, f"{WEB}/", entered(door), method=method)[0] == 404


def test_pages_of_other_sites_are_refused(door: Door) -> None:
    """A form, a script or a frame of another site, with whatever cookies a browser sends along."""
    cookie = entered(door)
    for header in ((b"origin", b"https://evil.example"), (b"origin", b"null"), (b"sec-fetch-site", b"cross-site")):
        for path in (f"{WEB}/enter", f"{WEB}/gradio_api/queue/join", UPLOAD):
            assert ask(door, path, cookie, FORM, header, method="POST", body=f"key={KEY}".encode())[0] == 403
    assert ask(door, f"{WEB}/", cookie, (b"origin", b"https://owl.example"))[0] == 200
    link = (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate")
    assert ask(door, f"{WEB}/", *link)[0] == 401  # a link to here is followed, without the cookie
    assert ask(door, f"{WEB}/enter", *link, FORM, method="POST", body=f"key={KEY}".encode())[0] == 403


def test_files_come_to_one_address(door: Door) -> None:
    cookie, parts = entered(door), (b"content-type", b"multipart/form-data; boundary=x")
    assert ask(door, UPLOAD, cookie, parts, method="POST", body=b"--x--")[0] == 200
    assert ask(door, f"{WEB}/gradio_api/queue/join", cookie, parts, method="POST")[0] == 415
    assert ask(door, UPLOAD, parts, method="POST")[0] == 401


def test_sessions_end_and_are_not_many() -> None:
    now = 0.0
    sessions = Sessions(Keys([KEY]), lambda: now)
    token = sessions.begin(KEY.encode())
    assert sessions.key(token) == KEY.encode()
    now = SESSION_SECONDS - 1
    assert sessions.key(token) == KEY.encode()
    now = SESSION_SECONDS
    assert sessions.key(token) is None
    tokens = [sessions.begin(KEY.encode()) for _ in range(SESSIONS + 1)]
    assert len(set(tokens)) == SESSIONS + 1
    assert sessions.key(tokens[0]) is None
    assert sessions.key(tokens[1]) == sessions.key(tokens[-1]) == KEY.encode()


def test_behind_tls_the_cookie_is_for_tls_alone(door: Door) -> None:
    headers = FORM, (b"x-forwarded-proto", b"https")
    assert b"Secure" in ask(door, f"{WEB}/enter", *headers, method="POST", body=f"key={KEY}".encode())[1][b"set-cookie"]


def test_the_page_begins_with_questions_that_owl_tiny_answers() -> None:
    model = OwlChatModel(load("owl-tiny", device="cpu"))
    talks = [Conversation(()).said("user", Picture(scene(number).draw()), words) for number, words in EXAMPLES]
    said = model.answers(talks, Decoding())
    assert said == ["3", "LIME", "white triangle, white circle, yellow triangle, orange circle", "14"]
