"""The address that a page or an interface is served at."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from mplug_owl.errors import UserError


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket with the port, 0 for a free one, which does not listen yet. Raises UserError where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except (OSError, UnicodeError) as error:  # of a name that can be no host's
            problem = getattr(error, "strerror", None) or error
            raise UserError(f"{host}:{port}: {problem}; give another --host or --port") from error
        yield listening


def base_address(host: str, listening: socket.socket) -> str:
    """The start of every address there, `http://HOST:PORT`."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"
