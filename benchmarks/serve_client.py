"""A client of `owl serve` that costs little itself: one connection a request, events read as they come.

On a machine of one or two cores a comfortable client takes as long as a small model. What other people's clients see is tested
with theirs; here their work is left out of the figures.
"""

import asyncio
import base64
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import Image

CHAT = "/v1/chat/completions"
PATIENCE = 300.0


@dataclass(frozen=True)
class Reply:
    """What came back: `status` 0 where the connection ended without a word; seconds by the clock, `first` to the first word."""

    status: int
    text: str = ""
    first: float | None = None
    seconds: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of the answer."""
        return int(self.usage.get("completion_tokens", 0))

    @property
    def known(self) -> int:
        """Of the prompt, what was computed before."""
        return int(self.usage.get("prompt_tokens_details", {}).get("cached_tokens", 0))


def data_url(image: Image.Image) -> str:
    """A picture as clients send it."""
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return "data:image/png;base64," + base64.b64encode(packed.getvalue()).decode()


def question(text: str, *pictures: str, model: str = "owl-tiny", **fields: Any) -> dict[str, Any]:
    """A streamed request with one question about pictures, which are `data:` URLs."""
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    content = [*shown, {"type": "text", "text": text}]
    asked = {"model": model, "messages": [{"role": "user", "content": content}], "stream": True}
    return {**asked, "stream_options": {"include_usage": True}, **fields}


def packed(body: Any, key: str | None, path: str = CHAT) -> bytes:
    """A request's bytes. A body of bytes is sent as it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lock = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lock}Content-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


async def ask(port: int, body: Any, key: str | None = None, leave_after: int | None = None) -> Reply:
    """Send a request and read its answer; `leave_after` so many events the client is gone."""
    begin = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    except OSError:
        return Reply(0)
    try:
        writer.write(packed(body, key))
        return await asyncio.wait_for(_read(reader, begin, leave_after), PATIENCE)
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return Reply(0, seconds=time.perf_counter() - begin)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, begin: float, leave_after: int | None) -> Reply:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if b"text/event-stream" not in head:
        body = await reader.read()
        return _whole(status, body, time.perf_counter() - begin)
    words: list[str] = []
    usage: dict[str, Any] = {}
    first, events = None, 0
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            return Reply(status, "".join(words), first, time.perf_counter() - begin, usage, whole=True)
        value = json.loads(line[6:])
        if "error" in value:
            return Reply(500, "".join(words), first, time.perf_counter() - begin, error=value["error"])
        usage = value.get("usage") or usage
        for choice in value["choices"]:
            if new := choice["delta"].get("content"):
                first = time.perf_counter() - begin if first is None else first
                words.append(new)
        events += 1
        if leave_after is not None and events >= leave_after:
            break
    return Reply(status, "".join(words), first, time.perf_counter() - begin, usage)


def _whole(status: int, body: bytes, seconds: float) -> Reply:
    value = json.loads(body) if body[:1] == b"{" else {}
    if status != 200:
        return Reply(status, body.decode("utf-8", "replace"), seconds=seconds, error=value.get("error", {}))
    text = value["choices"][0]["message"]["content"]
    return Reply(status, text, seconds, seconds, value["usage"], whole=True)


@contextmanager
def served(command: Sequence[str], errors: IO[str] | None = None) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """A server in a process of its own, which says its address first: its port and the process, killed at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"{' '.join(command)} did not begin: {line or 'no word'}")
        yield int(line.split("://", 1)[1].split("/", 1)[0].rsplit(":", 1)[1]), process
    finally:
        process.kill()
        process.communicate()


def memory(process: int) -> int:
    """Bytes of a process that are in memory; of its children nothing."""
    return int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
