"""What tests keep to wherever they run: they ask no network and leave nothing in a home."""

import socket
from pathlib import Path

import pytest

from mplug_owl.data.sources.store import cache_folder
from tests.conftest import LONG


def test_what_they_learn_of_files_is_kept_in_nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert cache_folder().is_relative_to(tmp_path_factory.getbasetemp())


def test_they_know_no_name_but_this_machines() -> None:
    for name in ("pypi.org", b"pypi.org", "huggingface.co"):
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo(name, 443)
    for name in ("localhost", "127.0.0.1", None):
        assert socket.getaddrinfo(name, 80)


def test_those_that_are_begun_first_are_there() -> None:
    assert {path.name for path in Path(__file__).parent.rglob("test_*.py")} >= set(LONG)
