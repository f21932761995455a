"""What somebody with a key sends who means no good, byte by byte. Each has a name; none may get anything but a refusal."""

import json
from collections.abc import Iterator
from typing import Any

from tests.serve.served import KEY, asked, data_url, shown

CHAT = "/v1/chat/completions"
# It stands in what is sent, so that an answer that repeats any of it is seen.
MARK = "owlmark"
LOCK = f"Authorization: Bearer {KEY}"


def raw(body: bytes, *headers: str, line: str = f"POST {CHAT} HTTP/1.1", kind: str = "application/json") -> bytes:
    """A request with a key and the right length."""
    lines = [line, "Host: 127.0.0.1", LOCK, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def posted(**fields: Any) -> bytes:
    return raw(json.dumps(asked(f"Who? {MARK}", **fields)).encode())


def get(path: str, *headers: str, lock: str = LOCK) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", lock, *headers]).encode("latin-1") + b"\r\n\r\n"


def told(*parts: Any) -> bytes:
    return raw(json.dumps(asked(*parts, {"type": "text", "text": f"What? {MARK}"})).encode())


def addressed(url: str) -> bytes:
    return told(shown(url))


GOOD = json.dumps(asked("Who?")).encode()

# How somebody without a key, or with a wrong one, tries to come in.
UNLOCKED = {
    "no key": get("/v1/models", lock="X: y"),
    "an empty key": get("/v1/models", lock="Authorization: Bearer "),
    "a key too short by one": get("/v1/models", lock=LOCK[:-1]),
    "a key too long by one": get("/v1/models", lock=f"{LOCK}k"),
    "a key of another kind": get("/v1/models", lock=f"Authorization: Basic {KEY}"),
    "a key twice": get("/v1/models", LOCK),
    "a key in the address": get(f"/v1/models?api_key={KEY}&key={KEY}", lock="X: y"),
    "a key in a cookie": get("/v1/models", lock=f"Cookie: key={KEY}; Authorization=Bearer {KEY}"),
    "a key in another header": get("/v1/models", lock=f"X-Api-Key: {KEY}"),
    "a key for a proxy": get("/v1/models", lock=f"Proxy-Authorization: Bearer {KEY}"),
    "a key of 20 kB": get("/v1/models", lock=f"Authorization: Bearer {KEY * 600}"),
    "a key with letters beyond ASCII": get("/v1/models", lock=f"Authorization: Bearer {KEY[:-1]}\xe4"),
    "a header's name with a space (request smuggling)": get("/v1/models", lock=f"Authorization : Bearer {KEY}"),
    "CVE-2026-48746: a path of two slashes": get("//v1/models", lock="X: y"),
    "CVE-2026-48746: a path that goes up": get("/health/../v1/models", lock="X: y"),
    "CVE-2026-48746: a path in percents": get("/%76%31/models", lock="X: y"),
    "CVE-2026-48746: a path that ends in a NUL": get("/health%00", lock="X: y"),
    "CVE-2026-48746: a path with a semicolon": get("/v1/models;/health", lock="X: y"),
    "CVE-2026-48746: a whole address": get("http://127.0.0.1/health", lock="X: y"),
    "CVE-2026-48710: another host's name": get("/health", lock="X-Forwarded-Host: localhost"),
    "CVE-2026-48710: a host with a path": b"GET /health HTTP/1.1\r\nHost: a/v1/models?\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "said to come from this machine": get("/health", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", lock="X: y"),
    "a path rewritten by a header": get("/health", "X-Original-URL: /v1/models", "X-Rewrite-URL: /", lock="X: y"),
    "OPTIONS, as a browser asks before": b"OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\n\r\n",
    "OPTIONS of everything": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "a websocket": get("/v1/models", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: a", lock="X: y"),
    "its own documentation": get("/docs", lock="X: y"),
    "its document": get("/openapi.json", lock="X: y"),
    "vLLM's load and sleep": raw(b"{}", line="POST /sleep HTTP/1.1").replace(LOCK.encode(), b"X: y"),
}

# What is no HTTP, or too much of it.
MALFORMED = {
    "no HTTP": f"{MARK}\r\n\r\n".encode(),
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2's greeting": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": get("/v1/models").replace(b"HTTP/1.1", b"HTTP/9.9"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n",
    "a method of control characters": b"\x01\x02 / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header of 100 kB": get("/v1/models", f"X-{MARK}: " + "a" * 100_000),
    "a header's name of 100 kB": get("/v1/models", "X" * 100_000 + ": a"),
    "10,000 headers": get("/v1/models", *(f"X-{number}: {MARK}" for number in range(10_000))),
    "a header without a colon": get("/v1/models", MARK),
    "a NUL in a header": get("/v1/models", f"X: {MARK}\0"),
    "a header in two lines": get("/v1/models", f"X: a\r\n {MARK}").replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n folded\r\n", 1),
    "an address of 5 kB": get("/" + MARK * 700),
    "an address of 50 kB": get("/" + MARK * 7000),
    "a query of 5 kB": get("/v1/models?" + MARK * 700),
    "an address with a space": get(f"/v1/ {MARK}"),
    "no host": f"GET /v1/models HTTP/1.1\r\n{LOCK}\r\n\r\n".encode(),
    "a negative length": raw(b"{}").replace(b"Length: 2", b"Length: -2"),
    "a length in words": raw(b"{}").replace(b"Length: 2", b"Length: two"),
    "a length with a plus": raw(b"{}").replace(b"Length: 2", b"Length: +2"),
    "a length of 20 digits": raw(b"{}").replace(b"Length: 2", b"Length: 9" + b"9" * 19),
    "two lengths": raw(b"{}", "Content-Length: 3"),
    "a length and chunks (request smuggling)": raw(b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "an unknown transfer coding": raw(b"{}", "Transfer-Encoding: owl").replace(b"Content-Length: 2\r\n", b""),
    "a chunk of no size": raw(b"xyz\r\n", "Transfer-Encoding: chunked").replace(b"Content-Length: 5\r\n", b""),
    "a chunk of a negative size": raw(b"-1\r\na", "Transfer-Encoding: chunked").replace(b"Content-Length: 5\r\n", b""),
    "a chunk larger than the world": raw(b"f" * 30 + b"\r\n", "Transfer-Encoding: chunked").replace(
        b"Content-Length: 32\r\n", b""
    ),
    "a chunk with an extension of 100 kB": raw(b"2;" + b"a" * 100_000, "Transfer-Encoding: chunked").replace(
        b"Content-Length: 100002\r\n", b""
    ),
    "a length of 1 GB": raw(b"").replace(b"Length: 0", b"Length: 1073741824"),
    "an upload": raw(b"--x\r\n", kind="multipart/form-data; boundary=x"),
    "CVE-2026-7302: an upload whose name goes up": raw(
        f'--x\r\nContent-Disposition: form-data; name="f"; filename="../../{MARK}"\r\n\r\na\r\n--x--\r\n'.encode(),
        kind="multipart/form-data; boundary=x",
    ),
    "a form": raw(b"model=owl&messages=a", kind="application/x-www-form-urlencoded"),
    "plain text, which a page of another site can send": raw(GOOD, kind="text/plain"),
    "a body packed by gzip": raw(b"\x1f\x8b\x08", "Content-Encoding: gzip"),
    "GET of what is posted": get(CHAT),
    "DELETE of a model": get("/v1/models/owl").replace(b"GET", b"DELETE", 1),
    "a model's name that goes up": get("/v1/models/..%2f..%2fetc%2fpasswd"),
    "a model's name of a NUL": get("/v1/models/%00"),
    "the responses' address": raw(GOOD, line="POST /v1/responses HTTP/1.1"),
    "a file by its path": get("/etc/passwd"),
    "Gradio's files": get("/gradio_api/file=/etc/passwd"),
    "transformers serve's reset": raw(b"{}", line="POST /reset HTTP/1.1"),
    "transformers serve's load": raw(b'{"model": "evil/model"}', line="POST /load_model HTTP/1.1"),
}

# Bodies that are no JSON, or too much of it.
BODIES = {
    "nothing": b"",
    "half of an object": GOOD[:-9],
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "nested 100,000 deep": b'{"model":' + b"[" * 100_000,
    "nested 100,000 deep and closed": b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects 10,000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "nested a level too deep": b'{"metadata":' + b"[" * 17 + b"]" * 17 + b"}",
    "a number of a million digits": b'{"seed":' + b"9" * 1_000_000 + b"}",
    "a number of an endless exponent": b'{"temperature":1e999999999}',
    "not a number": b'{"temperature":NaN}',
    "infinity": b'{"temperature":-Infinity}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "broken UTF-8": GOOD[:-1] + b',"user":"\xff\xfe"}',
    "half a surrogate": GOOD[:-1] + b',"user":"\\ud800"}',
    "a key that is no text": b'{1: "a"}',
    "text after the object": GOOD + MARK.encode(),
    "a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "YAML": b"!!python/object/apply:os.system ['id']",
    "XML with an entity": b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
}

# Fields by which other servers were made to do what they should not.
FIELDS: dict[str, dict[str, Any]] = {
    "CVE-2026-5760: a template in the request": {"chat_template": "{{ cycler.__init__.__globals__.os.popen('id').read() }}"},
    "a template's values": {"chat_template_kwargs": {"tools": "{{ 7*7 }}", "__class__": MARK}},
    "CVE-2025-59425: a key in a field": {"api_key": KEY},
    "a regular expression that never ends": {"guided_regex": "(a+)+$"},
    "a grammar": {"guided_grammar": 'root ::= root "a"'},
    "a schema": {"response_format": {"type": "json_schema", "json_schema": {"$ref": "file:///etc/passwd"}}},
    "processor arguments": {"mm_processor_kwargs": {"size": 10**9}},
    "media arguments": {"media_io_kwargs": {"image": {"max_pixels": 10**12}}},
    "embeddings in place of words": {"prompt_embeds": "gASVAAAA"},
    "another cache's salt": {"cache_salt": MARK},
    "end tokens ignored": {"ignore_eos": True},
    "all log-probabilities": {"prompt_logprobs": 32_000},
    "top_logprobs of a million": {"logprobs": True, "top_logprobs": 10**6},
    "a million answers": {"n": 10**6},
    "no answers": {"n": 0},
    "a length of minus one": {"max_tokens": -1},
    "a length as text": {"max_tokens": "8"},
    "a length that is true": {"max_tokens": True},
    "a length of half a token": {"max_tokens": 0.5},
    "a length of 40 digits": {"max_tokens": 10**40, "max_completion_tokens": 1},
    "a temperature below zero": {"temperature": -1e-300},
    "a temperature of 40 digits": {"temperature": 10**40},
    "a seed of 40 digits": {"seed": 10**40},
    "a hundred thousand stop words": {"stop": ["a"] * 100_000},
    "a stop word of a megabyte": {"stop": "a" * 2**20},
    "an empty stop word": {"stop": ""},
    "a penalty of zero": {"repetition_penalty": 0},
    "tools": {"tools": [{"type": "function", "function": {"name": "os.system"}}]},
    "a file": {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "/etc/passwd"}}]}]},
    "a film": {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "file:///a"}}]}]},
    "sound": {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}]},
    "a picture's embedding": {"messages": [{"role": "user", "content": [{"type": "image_embeds", "image_embeds": "gA=="}]}]},
    "a role of its own": {"messages": [{"role": "root", "content": MARK}]},
    "513 messages": {"messages": [{"role": "user", "content": "a"}] * 513},
    "half a million characters": {"messages": [{"role": "user", "content": "a" * 500_000}]},
    "a prompt longer than the model": {"messages": [{"role": "user", "content": "a" * 5_000}]},
    "messages that are one": {"messages": {"role": "user", "content": "a"}},
    "17 pictures": {"messages": [{"role": "user", "content": [shown(data_url(b"a"))] * 17}]},
    "a model by its path": {"model": "../../../etc/passwd"},
    "a model by its address": {"model": "http://169.254.169.254/"},
    "a model of the hub": {"model": f"evil/{MARK}"},
    "a model that is a list": {"model": ["owl"]},
    "a prototype": {"__proto__": {"admin": True}, "constructor": MARK},
    "a field's name of a megabyte": {MARK * 150_000: 1},
}

# CVE-2025-6242, CVE-2026-24779: where a server was led to fetch what its client could not.
ADDRESSES = (
    "http://127.0.0.1:8000/v1/models",
    "http://localhost/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://0/",
    "http://0.0.0.0:22/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127.0.0.1.nip.io/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://100.100.100.200/",
    "http://10.0.0.1/",
    "https://example.org@127.0.0.1/",
    "https://127.0.0.1#@example.org/",
    "https://127.0.0.1\\@example.org/",
    "https://example.org:443@169.254.169.254/a.png",
    "HTTPS://EXAMPLE.ORG/a.png",
    "https:example.org",
    "https:///example.org",
    "//example.org/a.png",
    "ftp://example.org/a.png",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/stats",
    "ldap://127.0.0.1/",
    "jar:http://127.0.0.1!/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "\\\\evil\\share\\a.png",
    "~/.ssh/id_rsa",
    "s3://bucket/a.png",
    "javascript:alert(1)",
    "data:text/html,<script>",
    "data:image/svg+xml;base64,PHN2Zy8+",
    "data:image/png;base64,",
    "data:image/png;base64,////",
    "data:image/png;base64,%00%00",
    "data:image/png;base64;base64,AAAA",
    "data:;base64,AAAA",
    "\n" * 1000,
)


def requests(pictures: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """All of them by name; `pictures` are files that are none."""
    yield from UNLOCKED.items()
    yield from MALFORMED.items()
    for name, body in BODIES.items():
        yield f"a body: {name}", raw(body)
    for name, fields in FIELDS.items():
        yield f"a field: {name}", posted(**fields)
    for address in ADDRESSES:
        yield f"an address: {address[:60]!r}", addressed(address)
    for name, file in pictures.items():
        yield f"a picture: {name}", addressed(data_url(file))
