"""Who means no good gets a refusal in our own words, whatever is sent, and everybody else their answers meanwhile."""

import asyncio
import json
import re
import statistics
import time

import pytest

from benchmarks.serve_client import ask
from mplug_owl.model.load import Owl
from mplug_owl.serve.api import Server
from mplug_owl.serve.guard import Keys
from tests.chat.test_decode import made
from tests.serve.hostile import MALFORMED, MARK, UNLOCKED, requests
from tests.serve.running import exchange, running
from tests.serve.served import KEY, asked
from tests.serve.test_media import HOSTILE

REQUESTS = dict(requests(HOSTILE))
# What uvicorn itself says, where there is no request that an application could answer.
UVICORN = "Invalid HTTP request received."
# Memory addresses, paths of this machine, tracebacks, Python's own words.
LEAKS = re.compile(r"0x[0-9a-f]{4}|Traceback|File \"|/site-packages|/tmp/|Error\(|object at|PIL|pydantic|jinja", re.IGNORECASE)


@pytest.fixture(scope="module")
def owl() -> Owl:
    return made("llama")


def answered(owl: Owl) -> dict[str, bytes]:
    """What every one of them gets, each alone, from one server."""

    async def run() -> dict[str, bytes]:
        async with running(Server({"owl": owl}, Keys([KEY]))) as (port, _):
            found = {name: await exchange(port, closing(request)) for name, request in REQUESTS.items()}
            assert (await ask(port, asked("Who?"), KEY)).status == 200
            return found

    return asyncio.run(run())


def closing(request: bytes) -> bytes:
    """A request after which the connection ends, where it is one."""
    head, found, body = request.partition(b"\r\n\r\n")
    return head + b"\r\nConnection: close" + found + body if b"HTTP/1.1\r\n" in head else request


def test_nobody_gets_more_than_a_refusal(owl: Owl, capfd: pytest.CaptureFixture[str]) -> None:
    """At least 80 that mean no good: 4xx or a closed door, sentences of ours, none of what was sent, no traceback."""
    found, messages = answered(owl), set()
    assert len(found) >= 80
    for name, answer in found.items():
        if not answer:  # bodies, fields and whoever has no key are always answered
            assert name in MALFORMED, name
            continue
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        assert 400 <= status < 500, (name, answer[:300])
        if name in UNLOCKED:
            assert status in (400, 401, 414), (name, answer[:300])
        text = body.decode()
        assert MARK not in answer.decode("latin-1"), name
        assert not LEAKS.search(text), (name, text)
        message = json.loads(text)["error"]["message"] if text.startswith("{") else text
        assert text.startswith("{") or UVICORN in text, (name, text)
        messages.add(message)
        assert len(message) < 200, name
    assert len(messages) < 80, "as many sentences as requests: something of a request is among them"
    assert "Traceback" not in "".join(capfd.readouterr())


def test_none_of_them_has_the_name_of_another() -> None:
    """It would be left out."""
    assert len(list(requests(HOSTILE))) == len(REQUESTS) > 200


@pytest.mark.slow
def test_others_are_answered_in_the_meantime(owl: Owl) -> None:
    """The median wait of somebody who asks one question after the other, alone and beside all of them at once."""

    async def waits(port: int, count: int) -> list[float]:
        found = []
        for _ in range(count):
            begin = time.perf_counter()
            assert (await ask(port, asked("Who?"), KEY)).whole
            found.append(time.perf_counter() - begin)
        return found

    async def attack(port: int, stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            for request in REQUESTS.values():
                await exchange(port, closing(request))
                count += 1
                if stop.is_set():
                    break
        return count

    async def run() -> tuple[float, float, float, int]:
        async with running(Server({"owl": owl}, Keys([KEY]))) as (port, _):
            await waits(port, 5)
            quiet = await waits(port, 40)
            stop = asyncio.Event()
            attackers = [asyncio.create_task(attack(port, stop)) for _ in range(4)]
            loud = await waits(port, 40)
            stop.set()
            return statistics.median(quiet), statistics.median(loud), max(loud), sum(await asyncio.gather(*attackers))

    quiet, loud, worst, count = asyncio.run(run())
    print(f"median {quiet:.3f} s alone, {loud:.3f} s beside {count} hostile requests, worst {worst:.3f} s")
    assert worst < 2
