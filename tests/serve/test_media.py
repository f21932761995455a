"""Strangers' pictures: what is read, what is refused, and that whoever opens them may die."""

import asyncio
import base64
import io
import multiprocessing
import operator
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.serve import media as media_module
from mplug_owl.serve.fetch import Fetcher, FetchError, is_public
from mplug_owl.serve.media import Media, MediaLimits, Openers
from mplug_owl.serve.protocol import RequestError
from tests.serve.served import data_url, url
from tests.tiny import picture

IMAGES = MplugOwlImageProcessor(size=28)


@pytest.fixture(scope="module")
def media() -> Iterator[Media]:
    found = Media(MediaLimits(file_bytes=2**20, seconds=20, processes=1))
    yield found
    found.close()


def read(media: Media, *urls: str, owner: bytes = b"") -> Any:
    return asyncio.run(media.read(urls, owner, IMAGES))


def refusal(media: Media, address: str) -> str:
    with pytest.raises(RequestError) as caught:
        read(media, address)
    assert 400 <= caught.value.status < 500
    assert "0x" not in caught.value.message  # CVE-2026-22778: a decoder's text may hold an address
    return caught.value.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pixels_are_those_of_owl_chat(media: Media, kind: str) -> None:
    packed = io.BytesIO()
    picture(3, 60, 90).convert("P" if kind == "GIF" else "RGB").save(packed, kind)
    (known,) = read(media, data_url(packed.getvalue(), kind.lower()))
    expected = IMAGES([packed.getvalue()])["pixel_values"]
    assert np.array_equal(IMAGES([known.source])["pixel_values"], expected)


def test_a_picture_is_found_again_by_its_owner_alone(media: Media) -> None:
    one, again = read(media, url(picture(4)), url(picture(4)))
    (other,), (stranger,) = read(media, url(picture(5))), read(media, url(picture(4)), owner=b"x")
    assert one.key == again.key
    assert len({one.key, other.key, stranger.key}) == 3


def png(width: int, height: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG file whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def packed(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GOOD = packed(picture(1), "PNG")
HOSTILE = {
    "a bomb by its header": png(60_000, 60_000),
    "a bomb in one row": png(2**31 - 1, 1),
    "no pixels": png(0, 5),
    "a bomb of zeros that is cut short": png(7_000, 9_000, bytes(10**6)),
    "cut short": GOOD[: len(GOOD) // 2],
    "its first bytes alone": GOOD[:8],
    "a JPEG cut short": packed(picture(1), "JPEG")[:30],
    "a GIF's header alone": b"GIF89a\xff\xff\xff\xff\xf7\x00\x00",
    "a WebP's header alone": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    "a RIFF that is sound": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    "TIFF": packed(picture(1), "TIFF"),
    "BMP": packed(picture(1), "BMP"),
    "PPM": packed(picture(1), "PPM"),
    "ICO": packed(picture(1), "ICO"),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "SVG with an entity": b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
    "PDF": b"%PDF-1.4\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage",
    "a pickle": b"\x80\x04\x95\x00",
    "HTML": b"<html><script>alert(1)</script>",
    "a PNG's end in front of a TIFF": b"\x89PNG\r\n\x1a\n" + packed(picture(1), "TIFF"),
    "a JPEG's beginning on a script": b"\xff\xd8\xff<?php system($_GET[0]); ?>",
    "AVIF's brand": b"\x00\x00\x00 ftypavif",
    "zip": b"PK\x03\x04" + bytes(60),
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_picture_is_refused(media: Media, name: str) -> None:
    assert "cannot be read" in refusal(media, data_url(HOSTILE[name]))


def test_a_polyglot_is_read_as_the_picture_that_it_is(media: Media) -> None:
    """What stands after a picture is not read; a picture of one pixel is one (CVE-2026-22773)."""
    (whole,), (with_script,) = read(media, data_url(GOOD)), read(media, data_url(GOOD + b"<script>alert(1)</script>PK\x03\x04"))
    assert whole.source.tobytes() == with_script.source.tobytes()
    for size in ((1, 1), (1, 4000), (4000, 1)):
        (one,) = read(media, url(Image.new("RGB", size, "red")))
        assert one.source.size == (28, 28)


ADDRESSES = [
    "http://127.0.0.1/a.png",
    "https://example.org/a.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "C:\\windows\\win.ini",
    "ftp://example.org/a.png",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "//example.org/a.png",
    "data:text/html;base64,PGh0bWw+",
    "data:image/svg+xml;base64,PHN2Zz4=",
    "data:image/png,rawbytes",
    "data:image/png;base64,%%%%",
    "data:image/png;base64,AAAA AAAA",
    "data:image/png;base64,ünïcode",
    "data:image/png;charset=x;base64,AAAA",
    "DATA:,",
    "",
    " ",
    "\x00",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_refused(media: Media, address: str) -> None:
    assert refusal(media, address)


def test_a_file_that_is_too_large_is_refused_before_it_is_decoded(media: Media) -> None:
    """CVE-2026-34755."""
    assert "more than 1,048,576 bytes" in refusal(media, "data:image/png;base64," + "A" * (2 * 2**20))


def test_whoever_opens_pictures_may_die(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    read(media, url(picture(6)))
    worker = media._openers._free.get()
    assert worker is not None
    os.kill(worker[0].pid, signal.SIGKILL)
    media._openers._free.put(worker)
    assert "cannot be read" in refusal(media, url(picture(7)))
    assert len(read(media, url(picture(7)))) == 1
    worker = media._openers._free.get()
    assert worker is not None
    os.kill(worker[0].pid, signal.SIGSTOP)  # takes too long
    media._openers._free.put(worker)
    monkeypatch.setattr(media._openers, "seconds", 0.1)
    assert "cannot be read" in refusal(media, url(picture(8)))
    monkeypatch.setattr(media._openers, "seconds", 20)
    assert len(read(media, url(picture(8)))) == 1
    assert media_module.KEPT_SQUARES >= media._squares.bytes > 0


def test_one_key_s_slow_pictures_are_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes one is left for somebody else, however many pictures one key sends."""
    media, slow, done = Media(MediaLimits(processes=2)), threading.Event(), []

    def opened(raw: bytes, side: int, resample: int) -> bytes:
        if raw != GOOD:
            assert slow.wait(20)
        return bytes(side * side * 3)

    monkeypatch.setattr(media._openers, "open", opened)

    async def run() -> None:
        async def ask(name: str, owner: bytes, *urls: str) -> None:
            await media.read(urls, owner, IMAGES)
            done.append(name)

        many = [asyncio.create_task(ask("slow", b"a", *(url(picture(seed)) for seed in (2, 3, 4)))) for _ in range(3)]
        await asyncio.sleep(0.02)
        await asyncio.wait_for(ask("other", b"b", data_url(GOOD)), 10)
        slow.set()
        await asyncio.gather(*many)

    asyncio.run(run())
    media.close()
    assert done[0] == "other"


def test_a_picture_that_nobody_waits_for_keeps_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for slow ones and leaves, again and again, has one thread at once all the same."""
    media, slow, opened = Media(MediaLimits(processes=2)), threading.Event(), []

    def open_slowly(raw: bytes, side: int, resample: int) -> bytes:
        opened.append(raw)
        assert raw == GOOD or slow.wait(20)
        return bytes(side * side * 3)

    monkeypatch.setattr(media._openers, "open", open_slowly)

    async def run() -> None:
        for seed in (2, 3, 4):
            asking = asyncio.create_task(media.read([url(picture(seed))], b"a", IMAGES))
            await asyncio.sleep(0.05)
            while not opened:
                await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        await asyncio.wait_for(media.read([data_url(GOOD)], b"b", IMAGES), 10)
        assert len(opened) == 2
        slow.set()
        assert len(await asyncio.wait_for(media.read([url(picture(5))], b"a", IMAGES), 10)) == 1

    asyncio.run(run())
    media.close()


class Host:
    """A host on this machine that answers every connection with these bytes."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._run, args=(answers,), daemon=True).start()

    def _run(self, answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            connection, _ = self.listening.accept()
            with connection:
                self.asked.append(connection.recv(4096))
                connection.sendall(answer)
        self.listening.close()

    def fetcher(self, addresses: tuple[str, ...] = ("93.184.215.14",), seconds: float = 5.0) -> Fetcher:
        """One that allows pictures.example; it resolves to these addresses, and whoever is public is this host."""
        return Fetcher(
            ["pictures.example", "pictures.example:8443"],
            1000,
            seconds,
            lambda host, port: list(addresses),
            lambda address, port, host, wait: socket.create_connection(self.listening.getsockname()[:2], wait),
        )


def answer(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def test_a_picture_of_an_allowed_host_is_fetched() -> None:
    host = Host(answer(b"x" * 1000), answer(b"y"))
    fetcher = host.fetcher()
    assert fetcher.fetch("https://pictures.example/a/b.png?size=1&c=%20") == b"x" * 1000
    assert host.asked[0].startswith(b"GET /a/b.png?size=1&c=%20 HTTP/1.1\r\nHost: pictures.example\r\n")
    assert fetcher.fetch("https://pictures.example:8443") == b"y"


@pytest.mark.parametrize(
    "response",
    [
        answer(b"", "302 Found", "Location: http://169.254.169.254/latest/meta-data/\r\n"),
        answer(b"", "301 Moved", "Location: https://pictures.example/b\r\n"),
        answer(b"", "404 Not Found"),
        answer(b"x" * 1001),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n0\r\n\r\n",
        b"not HTTP at all",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_a_host_may_not_answer(response: bytes) -> None:
    """CVE-2025-6242 and its like: a redirect leads to a host that nobody allowed."""
    with pytest.raises(FetchError):
        Host(response).fetcher().fetch("https://pictures.example/a.png")


@pytest.mark.parametrize(
    "dripped", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 200 OK\r\n\r\nx"]
)
def test_a_host_that_never_ends_is_left_in_time(dripped: bytes) -> None:
    """Byte by byte, each in time: a status that goes on and on, headers without an end, and a body."""
    listening, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(dripped)
            while not ended.wait(0.05):
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" if b"100" in dripped else b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    where = listening.getsockname()[:2]
    fetcher = Fetcher(
        ["pictures.example"],
        1000,
        0.3,
        lambda host, port: ["93.184.215.14"],
        lambda address, port, host, wait: socket.create_connection(where, wait),
    )
    begin = time.monotonic()
    killer = threading.Timer(20, ended.set)
    killer.start()
    with pytest.raises(FetchError):
        fetcher.fetch("https://pictures.example/a.png")
    took = time.monotonic() - begin
    ended.set()
    killer.cancel()
    thread.join()
    listening.close()
    assert took < 10


def test_what_a_name_takes_counts_in_the_seconds() -> None:
    """The system's own look-up may take longer than all of it; to connect has what is left."""
    left: list[float] = []

    def resolve(host: str, port: int) -> list[str]:
        time.sleep(0.2)
        return ["93.184.215.14"]

    def connect(address: str, port: int, host: str, seconds: float) -> socket.socket:
        left.append(seconds)
        raise OSError

    with pytest.raises(FetchError):
        Fetcher(["pictures.example"], 1000, 20.0, resolve, connect).fetch("https://pictures.example/a.png")
    assert 0 < left[0] <= 19.81


def test_a_process_that_does_not_begin_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_module, "BEGIN_SECONDS", 0.2)
    monkeypatch.setattr(media_module, "run", operator.methodcaller("recv_bytes"))  # it waits for us, and says nothing
    openers, before = Openers(1, 1), set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="did not begin"):
        openers.open(GOOD, 4, 2)
    assert set(multiprocessing.active_children()) == before
    openers.close()


PRIVATE = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.5",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "ff02::1",
    "fe80::1%eth0",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_not_connected_to(address: str) -> None:
    """Nor is a name that has one among its addresses: it may be the one of the next look-up (CVE-2026-24779)."""
    assert not is_public(address)
    for addresses in ((address,), ("93.184.215.14", address)):
        with pytest.raises(FetchError, match="not public"):
            Host(answer(b"secret")).fetcher(addresses).fetch("https://pictures.example/a.png")


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e")))


@pytest.mark.parametrize(
    "address",
    [
        "http://pictures.example/a",
        "https://pictures.example.evil.org/a",
        "https://pictures.example@evil.org/a",
        "https://evil.org@pictures.example/a",
        "https://evil.org#@pictures.example/",
        "https://pictures.example:80/a",
        "https://pictures.example:8443:443/a",
        "https://pictures.example\\@evil.org/a",
        "https:/pictures.example/a",
        "https:pictures.example/a",
        "https://pictures.example/a b",
        "https://pictures.example/a\r\nHost: evil.org",
        "https://pictures.example\t/a",
        "https://pictures.example./a",
        "https://Pictures.example/a",
        "https://[::1]/a",
        "https://127.0.0.1/a",
        "https://2130706433/a",
        "https://0x7f.1/a",
        "https://0177.0.0.1/a",
        "https://pictures。example/a",
        "https://pictures.example/" + "a" * 3000,
        "https://pictures.example/#fragment",
    ],
)
def test_an_address_of_another_spelling_is_refused(address: str) -> None:
    """Before anything is resolved."""
    with pytest.raises(FetchError):
        Host(answer(b"secret")).fetcher().check(address)


def test_base64_of_another_alphabet_is_refused(media: Media) -> None:
    raw = base64.urlsafe_b64encode(b"\xff\xd8\xff\xfb\xef").decode()
    assert "base64 is damaged" in refusal(media, f"data:image/jpeg;base64,{raw}")
