"""Requests that nobody would write: whatever shape they have, no 5xx and no traceback."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.serve_client import served
from mplug_owl.serve.api import Server
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.protocol import ChatRequest
from tests.chat.test_decode import made
from tests.serve.served import BASE, KEY, httpx, url
from tests.tiny import picture

# An executable of schemathesis >= 4, from an environment of its own: it wants other versions of what is here.
SCHEMATHESIS = os.environ.get("OWL_SCHEMATHESIS") or shutil.which("schemathesis")
SECONDS = int(os.environ.get("OWL_SCHEMATHESIS_SECONDS", "60"))
WORDS = ("user", "assistant", "system", "developer", "text", "image_url", "auto", "owl", "", url(picture(1, 4, 4)), "data:,")

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(WORDS)
SHAPES = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "image_url", "url", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
TEXT = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=6)})
SHOWN = st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": st.sampled_from(WORDS)})}
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(WORDS[:4]), "content": st.text(max_size=6) | st.lists(TEXT | SHOWN | SHAPES, max_size=3)}
    )
    | SHAPES,
    max_size=3,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)) | st.text(max_size=4), SHAPES, max_size=3)


class Client:
    """A server and a client in an event loop that stays."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.server = Server({"owl": made("llama")}, Keys([KEY]))
        self.lifespan = self.server.lifespan(self.server.routes)
        self.runner.run(self.lifespan.__aenter__())
        transport = httpx.ASGITransport(app=self.server.app, raise_app_exceptions=True)
        self.client = httpx.AsyncClient(transport=transport, base_url=BASE, headers={"Authorization": f"Bearer {KEY}"})

    def post(self, body: Any) -> Any:
        packed = json.dumps(body).encode()
        sent = self.client.post("/v1/chat/completions", content=packed, headers={"content-type": "application/json"})
        return self.runner.run(sent)

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    found = Client()
    yield found
    found.close()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=MESSAGES | SHAPES, fields=FIELDS)
def test_no_shape_of_a_request_is_a_crash(client: Client, messages: Any, fields: dict[str, Any]) -> None:
    """Whatever comes is answered, or refused with a sentence."""
    response = client.post({"model": "owl", "messages": messages, "max_tokens": 2} | fields)
    assert response.status_code == 200 or 400 <= response.status_code < 500
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_shape_that_is_right_is_answered(client: Client) -> None:
    """So that the test above does not pass by refusing everything."""
    content = [{"type": "text", "text": "Who?"}, {"type": "image_url", "image_url": {"url": WORDS[-2]}}]
    response = client.post({"model": "owl", "messages": [{"role": "user", "content": content}], "max_tokens": 2})
    assert response.status_code == 200


def test_the_document_says_what_requests_are(client: Client) -> None:
    """Every part that it names is in it, so that programs can read it."""
    response = client.runner.run(client.client.get("/openapi.json"))
    document, text = response.json(), response.text
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatRequest"}
    shapes = document["components"]["schemas"]
    assert set(shapes["ChatRequest"]["properties"]) == set(ChatRequest.model_fields)
    named = {part.split('"')[0] for part in text.split('"#/')[1:]}
    assert named
    assert {one.removeprefix("components/schemas/") for one in named} <= set(shapes)


@pytest.mark.slow
@pytest.mark.skipif(SCHEMATHESIS is None, reason="OWL_SCHEMATHESIS names no executable")
def test_schemathesis_finds_no_5xx(tmp_path: Path) -> None:
    """A real process, asked by its own document for OWL_SCHEMATHESIS_SECONDS; 600 is what was once run."""
    (tmp_path / "keys").write_text(KEY)
    command = [
        sys.executable,
        "-m",
        "mplug_owl_cli",
        "serve",
        "owl-tiny",
        "--port",
        "0",
        "--max-tokens",
        "8",
        "--seconds",
        "20",
    ]
    log = tmp_path / "log"
    with log.open("w") as errors, served([*command, "--keys", str(tmp_path / "keys")], errors) as (port, process):
        found = subprocess.run(
            [
                *(str(SCHEMATHESIS), "run", f"http://127.0.0.1:{port}/openapi.json"),
                *("--header", f"Authorization: Bearer {KEY}", "--checks", "not_a_server_error"),
                *("--max-time", str(SECONDS), "--max-examples", "100000", "--request-timeout", "60"),
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS + 300,
            cwd=tmp_path,
        )
        assert process.poll() is None, "the server died"
    print(found.stdout[-2500:])
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
    assert "Traceback" not in log.read_text()
