"""A stand-in for an object store: a web server of a folder's files with a set latency, set failures and counts of requests.

    with ObjectStore(folder, latency=0.05) as store:       # in threads of this process
        read(f"webdataset:{store.url}/00000.tar")
    with apart(folder, latency=0.05) as store: ...         # in a process of its own, whose CPU time is not the test's

Addresses begin with `standin://`, a file system for fsspec on Python's own HTTP client, or with `http://`, fsspec's own, where
aiohttp is installed.
"""

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

# Faults of the next answers, in turn: an HTTP status, or one of these.
RESET, SHORT, SLOW, WHOLE = "reset", "short", "slow", "whole"


class ObjectStore(ThreadingHTTPServer):
    """Serves the files of `folder`. `latency` is the seconds before each answer, `stall` those of a slow one."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, latency: float = 0.0, stall: float = 5.0) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.latency, self.stall = folder, latency, stall
        self.faults: deque[int | str] = deque()
        self.requests, self.bytes = Counter[str](), Counter[str]()  # of GET alone, by path
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"standin://{self.host}"

    def fail(self, *faults: int | str) -> None:
        """Let the next answers go wrong in these ways, one each."""
        self.faults.extend(faults)

    def counts(self) -> tuple[int, int]:
        """Requests and bytes since the last `forget`."""
        return sum(self.requests.values()), sum(self.bytes.values())

    def forget(self) -> None:
        """Count anew."""
        self.requests.clear()
        self.bytes.clear()

    @contextlib.contextmanager
    def counted(self, path: str) -> Iterator[None]:
        with self._lock:
            self.requests[path] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none."""

    def __enter__(self) -> "ObjectStore":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    """One connection: GET and HEAD of files, ranges, entity tags, and a page of links for a folder."""

    protocol_version = "HTTP/1.1"
    server: ObjectStore
    disable_nagle_algorithm = True

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(self._path(), body=False)

    def do_GET(self) -> None:
        path = self._path()
        if path.name == "_counts":
            return self._send(200, json.dumps(self.server.counts()).encode())
        if path.name == "_forget":
            self.server.forget()
            return self._send(200, b"")
        with self.server.counted(self.path):
            self._answer(path, body=True)
        return None

    def _path(self) -> Path:
        return self.server.folder / unquote(self.path.lstrip("/").partition("?")[0])

    def _answer(self, path: Path, body: bool) -> None:
        time.sleep(self.server.latency)
        fault = self.server.faults.popleft() if body and self.server.faults else None
        if path.is_dir():
            links = "".join(f'<a href="{one.name}">{one.name}</a>\n' for one in sorted(path.iterdir()))
            return self._send(200, links.encode(), body=body)
        if not path.is_file():
            return self._send(404, b"", body=body)
        if isinstance(fault, int):
            return self._send(fault, b"no", body=body)
        if fault == RESET:
            self.close_connection = True
            return None
        if fault == SLOW:
            time.sleep(self.server.stall)
        return self._send_file(path, fault, body)

    def _send_file(self, path: Path, fault: str | None, body: bool) -> None:
        about = path.stat()
        tag = f'"{about.st_size:x}-{about.st_mtime_ns:x}"'
        if self.headers.get("If-Match", tag) != tag:
            return self._send(412, b"", body=body)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if fault != WHOLE else None
        start, end = (int(match[1]), min(int(match[2] or about.st_size) + 1, about.st_size)) if match else (0, about.st_size)
        with path.open("rb") as file:
            file.seek(start)
            raw = file.read(end - start) if body else bytes(0)
        self.send_response(206 if match else 200)
        self.send_header("ETag", tag)
        self.send_header("Accept-Ranges", "bytes")
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{about.st_size}")
        if fault == SHORT:  # an answer that is whole in itself and has too little
            raw, end = raw[: len(raw) // 2], start + len(raw) // 2
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        with self.server._lock:  # before they are sent: whoever has them may ask for the count
            self.server.bytes[self.path] += len(raw)
        self.wfile.write(raw)
        return None

    def _send(self, status: int, content: bytes, body: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


class StandinFile(AbstractBufferedFile):
    """A file of the store, read a block at a time."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)


class StatusError(OSError):
    """An answer that is none."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class StandinFileSystem(AbstractFileSystem):
    """`standin://HOST:PORT/PATH` on Python's own HTTP client, a connection for each request."""

    protocol = "standin"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("standin://").rstrip("/")

    def ls(self, path: str, detail: bool = True, **how: Any) -> list[Any]:
        links = re.findall(rb'href="([^"]+)"', self._ask("GET", f"{path}/")[1])
        names = [f"{path}/{link.decode()}" for link in links]
        return [self.info(name) for name in names] if detail else names

    def info(self, path: str, **how: Any) -> dict[str, Any]:
        headers, _ = self._ask("HEAD", self._strip_protocol(path))
        kind = "file" if headers.get("ETag") else "directory"
        return {"name": path, "size": int(headers["Content-Length"]), "type": kind, "ETag": headers.get("ETag")}

    def ukey(self, path: str) -> str:
        return str(self.info(path)["ETag"])

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **how: Any) -> bytes:
        ranges = {} if start is None or end is None else {"Range": f"bytes={start}-{end - 1}"}
        return self._ask("GET", self._strip_protocol(path), ranges)[1]

    def get_file(self, rpath: str, lpath: str, **how: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def _open(self, path: str, mode: str = "rb", **how: Any) -> StandinFile:
        how.pop("autocommit", None)
        return StandinFile(self, path, mode, **{name: how[name] for name in ("block_size", "cache_type") if how.get(name)})

    def _ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[Any, bytes]:
        host, _, name = path.partition("/")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            connection.request(method, f"/{name}", headers=headers or {})
            answer = connection.getresponse()
            content = answer.read()
        if answer.status == 404:
            raise FileNotFoundError(path)
        if answer.status >= 400:
            raise StatusError(answer.status)
        return answer.headers, content


fsspec.register_implementation("standin", StandinFileSystem, clobber=True)


class Apart:
    """A store in a process of its own."""

    def __init__(self, host: str) -> None:
        self.host = host

    @property
    def url(self) -> str:
        return f"standin://{self.host}"

    def counts(self) -> tuple[int, int]:
        """Requests and bytes since the last `forget`."""
        requests, size = json.loads(self._ask("_counts"))
        return requests, size

    def forget(self) -> None:
        """Count anew."""
        self._ask("_forget")

    def _ask(self, name: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.host}/{name}") as answer:
            return answer.read()


@contextlib.contextmanager
def apart(folder: Path, latency: float) -> Iterator[Apart]:
    """A store of the files of `folder` in a process of its own."""
    command = [sys.executable, "-m", "tests.object_store", str(folder), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Apart(process.stdout.readline().strip())
        finally:
            process.terminate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is ended; the first line printed is the host."""
    parser = argparse.ArgumentParser(description="A folder as an object store with a set latency.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.05)
    options = parser.parse_args(arguments)
    store = ObjectStore(options.folder, options.latency)
    print(store.host, flush=True)
    store.serve_forever()


if __name__ == "__main__":
    main()
