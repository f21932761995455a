"""The address that a page is served at: a port, or one sentence."""

import pytest

from mplug_owl.errors import UserError
from mplug_owl.page.listening import base_address, bound, is_local


@pytest.mark.parametrize("host", ["999.1.1.1", "a..b", f"{'a' * 70}.org"])
def test_a_host_that_cannot_be_one_is_told(host: str) -> None:
    with pytest.raises(UserError, match=r":0: .+; give another --host or --port$"), bound(host, 0):
        pass


def test_a_free_port_has_an_address() -> None:
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert base_address("127.0.0.1", listening) == f"http://127.0.0.1:{port}"
        listening.listen()
        with pytest.raises(UserError, match=f"^127.0.0.1:{port}: .+; give another"), bound("127.0.0.1", port):
            pass


def test_only_this_machine_is_local() -> None:
    assert all(map(is_local, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "example.org", "")))
