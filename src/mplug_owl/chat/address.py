"""Where a server is and how patiently it is asked, from the name that a user types."""

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from mplug_owl.errors import UserError

# What a user may write into an address, http://HOST/v1?concurrency=8#MODEL.
OPTIONS = {"concurrency": int, "timeout": float, "retries": int}


@dataclass(frozen=True)
class Endpoint:
    """Where a server is, which of its models answers, and how patiently it is asked.

    The key comes from the environment: OWL_API_KEY, or OPENAI_API_KEY where the address is https or this machine.

    Args:
        address: As `http://localhost:8000/v1`.
        model: What the server calls the model.
        concurrency: So many requests are under way at once.
        timeout: An answer takes at most so many seconds.
        retries: A request is repeated so often where that may help.
        backoff: Seconds before the first repetition, doubled before each other one.

    Raises:
        UserError: A value is out of its range, or this is no address.

    Example:
        >>> from mplug_owl.chat.address import Endpoint
        >>> Endpoint.from_name("http://localhost:8000/v1?concurrency=8#owl")
        Endpoint(address='http://localhost:8000/v1', model='owl', concurrency=8, timeout=300.0, retries=6, backoff=0.5)
    """

    address: str
    model: str
    concurrency: int = 4
    timeout: float = 300.0
    retries: int = 6
    backoff: float = 0.5

    def __post_init__(self) -> None:
        url = _split(self.address)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise UserError(f"{self.address}: no address of a server; expected http://HOST/v1")
        if url.username or url.password:
            raise UserError(f"the address of {url.hostname} holds a password; put the key into OWL_API_KEY instead")
        ranges = {
            f"{self.address} names no model; expected http://HOST/v1#MODEL": bool(self.model),
            f"concurrency is {self.concurrency}; expected at least 1": self.concurrency >= 1,
            f"timeout is {self.timeout:g}; expected seconds above 0": self.timeout > 0,
            f"retries is {self.retries}; expected at least 0": self.retries >= 0,
            f"backoff is {self.backoff:g}; expected at least 0 seconds": self.backoff >= 0,
        }
        for problem, fine in ranges.items():
            if not fine:
                raise UserError(problem)

    @classmethod
    def from_name(cls, name: str) -> "Endpoint":
        """The endpoint of `http://HOST/v1#MODEL`; options stand before the model, `http://HOST/v1?concurrency=8#MODEL`.

        Raises:
            UserError: It is no such name, or an option is none of concurrency, timeout and retries.
        """
        url = _split(name)
        options: dict[str, Any] = {}
        for option, value in parse_qsl(url.query, keep_blank_values=True):
            if option not in OPTIONS:
                raise UserError(f"{name}: no option {option!r}; expected {', '.join(OPTIONS)}")
            try:
                options[option] = OPTIONS[option](value)
            except ValueError:
                raise UserError(f"{name}: {option} is {value!r}; expected a number") from None
        return cls(url._replace(query="", fragment="").geturl().rstrip("/"), url.fragment, **options)

    @property
    def name(self) -> str:
        """Address and model, as a user types them."""
        return f"{self.address}#{self.model}"

    def key(self) -> str | None:
        """The key for this address, if there is one. It is never kept.

        OPENAI_API_KEY is not sent in clear text to another machine: it was hardly meant for that.
        """
        url = urlsplit(self.address)
        names = ["OWL_API_KEY"]
        if url.scheme == "https" or url.hostname in ("localhost", "127.0.0.1", "::1"):
            names.append("OPENAI_API_KEY")
        for name in names:
            if key := os.environ.get(name, "").strip():
                if not (key.isascii() and key.isprintable()):
                    raise UserError(f"{name} holds characters that no key has; set it again")
                return key
        return None


def _split(address: str) -> SplitResult:
    try:
        url = urlsplit(address)
        _ = url.port  # which is read as a number no earlier
    except ValueError as error:
        shown = address.rpartition("@")[2]  # without a password
        raise UserError(f"{shown}: no address of a server ({error}); expected http://HOST/v1") from None
    return url
