"""A server that speaks OpenAI's language and misbehaves where a test says so."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "parrot"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self.server.listed += 1
        self.server.on_list(self)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        request["key"] = self.headers.get("authorization", "").removeprefix("Bearer ")
        question = asked(request)
        server = self.server
        with server.lock:
            server.requests.append(request)
            server.tries[question] += 1
            tried = server.tries[question]
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            server.behave(question, tried)(self, question)
        except (BrokenPipeError, ConnectionResetError):
            server.hung_up.set()
        finally:
            with server.lock:
                server.at_once -= 1

    def send(self, body: bytes | str | dict | list, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(raw)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def hang_up(self) -> None:
        """Close the connection without another byte."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


Behaviour = Callable[[Handler, str], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behave: Callable[[str, int], Behaviour], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behave = behave
        self.on_list: Callable[[Handler], None] = lambda handler: handler.send({"object": "list", "data": [{"id": MODEL}]})
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.tries: Counter[str] = Counter()
        self.listed = self.at_once = self.most_at_once = 0
        self.hung_up = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def serving(behave: Callable[[str, int], Behaviour], port: int = 0) -> Iterator[Server]:
    """A server whose reply to a question depends on the question and on how often it was asked."""
    server = Server(behave, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(request: dict[str, Any]) -> str:
    """The words of a request's last message."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def words_for(question: str) -> str:
    return f"An answer to {question}"


def completion(content: Any, reason: str | None = "stop") -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
    }


# Behaviours


def good(handler: Handler, question: str) -> None:
    handler.send(completion(words_for(question)))


def says(content: Any, reason: str | None = "stop") -> Behaviour:
    return lambda handler, question: handler.send(completion(content, reason))


def sends(body: bytes | str | dict | list, status: int = 200, kind: str = "application/json", **headers: str) -> Behaviour:
    return lambda handler, question: handler.send(body, status, kind, **headers)


def refuses(status: int, message: str = "no", code: str | None = None, **headers: str) -> Behaviour:
    return sends({"error": {"message": message, "code": code}}, status, **headers)


def cuts(handler: Handler, question: str) -> None:
    """Half of a reply, then the connection is gone."""
    raw = json.dumps(completion(words_for(question))).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw[: len(raw) // 2])
    handler.wfile.flush()
    handler.hang_up()


def hangs_up(handler: Handler, question: str) -> None:
    handler.hang_up()


def waits(seconds: float, then: Behaviour = good) -> Behaviour:
    def behave(handler: Handler, question: str) -> None:
        threading.Event().wait(seconds)
        then(handler, question)

    return behave


def trickles(handler: Handler, question: str) -> None:
    """A byte now and then, for ever: no single read takes long."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "100000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        threading.Event().wait(0.02)


def streams(
    *parts: str, reason: str | None = "stop", done: bool = True, pause: float = 0.0, promised: int | None = None
) -> Behaviour:
    """Chunks of a stream; without a reason it is one that broke off. `promised` bytes do not all come."""

    def behave(handler: Handler, question: str) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        if promised is not None:
            handler.send_header("content-length", str(promised))
        handler.end_headers()
        for part in parts:
            _event(handler, {"content": part}, None)
            threading.Event().wait(pause)
        if reason:
            _event(handler, {}, reason)
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")
        handler.close_connection = True

    return behave


def _event(handler: Handler, delta: dict[str, str], reason: str | None) -> None:
    chunk = {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
    handler.wfile.flush()
