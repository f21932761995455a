"""Remote pictures, where a server's owner allows their hosts: resolved once, pinned, and never led elsewhere.

The address is read by one parser, and the request is built from what it read. So no second parser can see another host.
"""

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse

from mplug_owl.errors import UserError

# https, a name, a port at most, and a path without anything that two programs may read in two ways.
_URL = re.compile(
    r"https://([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(\d{1,5}))?(/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*)?", re.ASCII
)
LONGEST = 2048

Resolve = Callable[[str, int], list[str]]
Connect = Callable[[str, int, str, float], socket.socket]


class FetchError(Exception):
    """A picture that is not fetched; the sentence is ours."""


class Fetcher:
    """Fetches pictures from hosts that are allowed by name.

    Args:
        hosts: Names as they stand in an address, with `:PORT` where it is not 443.
        file_bytes: The largest file.
        seconds: All of it takes at most so long.
        resolve: A name and a port to addresses; by default the system's, which has a clock of its own.
        connect: An address, a port, a name and seconds to a socket that speaks TLS.

    Raises:
        UserError: A host is no name, such as a whole address.
    """

    def __init__(
        self,
        hosts: Collection[str],
        file_bytes: int,
        seconds: float,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.hosts, self.file_bytes, self.seconds = frozenset(map(_allowed, hosts)), file_bytes, seconds
        self._resolve, self._connect = resolve or _resolved, connect or _connected

    def check(self, url: str) -> tuple[str, int, str]:
        """Host, port and path of an address that may be fetched. Raises FetchError for any other."""
        match = _URL.fullmatch(url) if len(url) <= LONGEST else None
        if match is None:
            raise FetchError("expected a data: URL, or a plain https address of a host that this server allows")
        host, port, path = match[1], int(match[2] or 443), match[3] or "/"
        if (host if port == 443 else f"{host}:{port}") not in self.hosts:
            raise FetchError("this server fetches no pictures from that host; send the picture as a data: URL")
        return host, port, path

    def fetch(self, url: str) -> bytes:
        """The file at an address. Raises FetchError, whatever goes wrong."""
        host, port, path = self.check(url)
        deadline = time.monotonic() + self.seconds
        try:
            address = self._public(host, port)
            connected = self._connect(address, port, host, max(deadline - time.monotonic(), 0.001))
            connection = _Pinned(host, port, connected)
            try:
                with _shut_after(connected, deadline - time.monotonic()):
                    connection.request(
                        "GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "owl"}
                    )
                    return self._body(connection, deadline)
            finally:
                connection.close()
        except (OSError, HTTPException, ValueError):
            raise FetchError("the picture could not be fetched from its host") from None

    def _public(self, host: str, port: int) -> str:
        """The one address that is connected to. All that the name has must be public: another may be taken next time."""
        addresses = self._resolve(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise FetchError("that host's address is not public")
        return addresses[0]

    def _body(self, connection: "_Pinned", deadline: float) -> bytes:
        response: HTTPResponse = connection.getresponse()
        if response.status != 200:  # redirects too: they would lead to a host that nobody allowed
            raise FetchError("the picture's host did not answer with a picture; redirects are not followed")
        body = bytearray()
        while part := response.read1(65536):
            body += part
            if len(body) > self.file_bytes:
                raise FetchError(f"the picture has more than {self.file_bytes:,} bytes")
        if time.monotonic() > deadline:  # what came until then is not all of it
            raise FetchError("the picture's host took too long")
        return bytes(body)


class _Pinned(HTTPConnection):
    """A connection whose socket is there already, so that no name is looked up again."""

    default_port = 443

    def __init__(self, host: str, port: int, connected: socket.socket) -> None:
        super().__init__(host, port)
        self.sock = connected

    def connect(self) -> None:
        """Never again: the host may have another address by now."""
        raise OSError("the connection was closed")


@contextmanager
def _shut_after(connected: socket.socket, seconds: float) -> Iterator[None]:
    """A block in which a connection ends after so many seconds: a byte now and then would renew every other time limit."""

    def shut() -> None:
        with suppress(OSError):  # it is closed already
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # TLS' own would have the next bytes read as they are

    timer = threading.Timer(max(seconds, 0.0), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_public(address: str) -> bool:
    """Whether an address is of the public internet: not this machine's, a private network's or a cloud's own."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 by a translator
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None and not inner.is_global:
            return False
    return ip.is_global and not ip.is_multicast


def _allowed(host: str) -> str:
    """A host as `check` finds it in an address."""
    match = _URL.fullmatch(f"https://{host.lower()}")
    if match is None or match[3]:
        raise UserError(f"--allow-host {host}: expected a host's name, such as pictures.example.org, or NAME:PORT")
    return match[1] if int(match[2] or 443) == 443 else f"{match[1]}:{int(match[2])}"


def _resolved(host: str, port: int) -> list[str]:
    return list(dict.fromkeys(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def _connected(address: str, port: int, host: str, seconds: float) -> socket.socket:
    deadline = time.monotonic() + seconds
    connected = socket.create_connection((address, port), seconds)
    try:
        context = ssl.create_default_context()
        connected = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
        with _shut_after(connected, deadline - time.monotonic()):
            connected.do_handshake()
    except BaseException:
        connected.close()
        raise
    return connected
