"""Stores: every request to one is counted, asked again where it fails, and its answer measured before anybody reads it."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple, TypeVar

from mplug_owl.errors import UserError

# Seconds before each further try, times a random half to one and a half: a thousand processes that a store turned away
# must not come back together. About half a minute in all.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# No try begins later than this many seconds after the first.
PATIENCE = 300.0
# A web server that sends nothing for this long has forgotten the request: one in a million on a long way. Eight steps of a
# large run take 19 s, so nobody waits for it. Other stores have time-outs of their own; no request lasts longer than this.
SILENCE, LONGEST = 10.0, 300.0
# A store says what it means by these, and says the same again: bad request, no key, wrong key, no such method, gone, changed.
HOPELESS = (400, 401, 403, 405, 410, 412, 416)

T = TypeVar("T")
_jitter = SystemRandom()  # forked workers must not share its state


class Traffic(NamedTuple):
    """What this process asked of stores: requests for bytes, tries after the first, bytes that came."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        """What was added after `before`."""
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


NO_TRAFFIC = Traffic()


class Counter:
    """Traffic as it is counted, by several threads."""

    def __init__(self) -> None:
        self._lock, self._sum, self._taken = threading.Lock(), Traffic(), Traffic()

    def add(self, *more: int) -> None:
        """Add requests, retries and bytes, in this order."""
        with self._lock:
            self._sum = Traffic(*(have + new for have, new in zip(self._sum, more, strict=True)))

    @property
    def sum(self) -> Traffic:
        """What was counted so far."""
        return self._sum

    def take(self) -> Traffic:
        """What was counted since this was called before."""
        before, self._taken = self._taken, self._sum
        return self._taken.since(before)


def take_traffic() -> Traffic:
    """What this process asked of stores since it was asked this before; for the one who adds it up."""
    return _counter().take()


def traffic() -> Traffic:
    """What this process asked of stores since it began. A forked process begins at nothing."""
    return _counter().sum


def is_remote(address: str) -> bool:
    """Whether this is an address for fsspec (`s3://...`, `simplecache::https://...`) and no path."""
    return "://" in address or "::" in address


def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path there. Raises UserError for an address that none knows."""
    import fsspec

    try:
        # fsspec keeps one file system for each process, so asking again costs little and is right after a fork.
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:  # it says which package an address needs, and which protocols there are
        raise UserError(f"{address}: {error}") from None
    return system, path


def asked(address: str, question: Callable[[], T]) -> T:
    """A store's answer, asked again after a pause where it fails. Raises UserError in the end."""
    began = time.monotonic()
    for tries, pause in enumerate((*PAUSES, None), 1):
        try:
            return question()
        except (FileNotFoundError, NotImplementedError, UserError):
            raise
        except Exception as error:  # each kind of store has errors of its own
            spent = time.monotonic() - began
            if pause is None or _is_hopeless(error) or spent + pause > PATIENCE:
                often = f", {tries} tries in {spent:.0f} s" if tries > 1 else ""
                reason = str(error) or "no answer"
                raise UserError(f"{address}: cannot be fetched ({type(error).__name__}: {reason}{often})") from error
            _counter().add(0, 1, 0)
            time.sleep(pause * _jitter.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def fetch(address: str, start: int, end: int, version: str = "") -> bytes:
    """The bytes from `start` to `end` of an object: all of them, or an error.

    Args:
        address: Where it is.
        start: The first byte.
        end: The byte after the last.
        version: What web servers call an entity tag. One with it gives bytes of this version or none.

    Raises:
        UserError: The object is gone or has changed, or its store does not answer.
    """
    try:
        return asked(address, lambda: _fetched_once(address, start, end, version))
    except FileNotFoundError:
        raise UserError(f"{address}: the file is gone since it was opened") from None


def entity_tag(system: Any, about: dict[str, Any]) -> str:
    """A web server's strong name for what a file holds now; empty where it has none. Other stores' `ukey` does the same."""
    tag = about.get("ETag")
    return tag if _is_web(system) and isinstance(tag, str) and tag.startswith('"') else ""


class _ShortError(OSError):
    """A store gave another number of bytes than it was asked for."""


def _fetched_once(address: str, start: int, end: int, version: str) -> bytes:
    system, path = file_system(address)
    _counter().add(1, 0, 0)
    ranges: dict[str, Any] = {"start": start, "end": end}
    if _is_web(system):
        from aiohttp import ClientTimeout

        ranges["timeout"] = ClientTimeout(sock_connect=SILENCE, sock_read=SILENCE)
        if version.startswith('"'):
            ranges["headers"] = {**system.kwargs.get("headers", {}), "If-Match": version}
    if system.async_impl and not system.asynchronous:
        from fsspec.asyn import sync

        raw: bytes = sync(system.loop, partial(system._cat_file, path, **ranges), timeout=LONGEST)
    else:
        raw = system.cat_file(path, **ranges)
    _counter().add(0, 0, len(raw))
    if len(raw) != end - start:
        raise _ShortError(f"{len(raw):,} bytes where {end - start:,} were asked for")
    return raw


def _is_web(system: Any) -> bool:
    return "https" in system.protocol


def _is_hopeless(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "status", None) in HOPELESS


def cache_folder() -> Path:
    """Where what was learnt about files is kept: `mplug-owl` in the user's folder for caches."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mplug-owl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written to") from None
    return folder


_counters: dict[int, Counter] = {}


def _counter() -> Counter:
    # By process: a fork may come while another thread holds the counter's lock.
    return _counters.get(os.getpid()) or _counters.setdefault(os.getpid(), Counter())
