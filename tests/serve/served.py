"""A server in this process, and what its tests ask it."""

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2 as httpx
from PIL import Image

from mplug_owl.serve.api import Server

KEY, OTHER = "k" * 32, "o" * 32
BASE = "http://127.0.0.1:8000"


def url(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as a data: URL."""
    packed = io.BytesIO()
    image.save(packed, kind)
    return data_url(packed.getvalue(), kind.lower())


def data_url(raw: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def shown(picture: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": picture}}


def asked(*parts: Any, **fields: Any) -> dict[str, Any]:
    """A request with one question."""
    content: Any = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)
    return {"model": "owl", "messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}


def with_client(server: Server, use: Callable[[Any], Awaitable[Any]], key: str | None = KEY) -> Any:
    """What a coroutine finds that talks to a server, which begins before it and ends after it."""

    async def run() -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app=server.app, raise_app_exceptions=False)
        async with (
            server.lifespan(server.routes),
            httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers) as one,
        ):
            return await use(one)

    return asyncio.run(run())


def events(text: str) -> list[Any]:
    """The values of a stream's events, the last of which is [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
