"""What tests share: where the data beside the checkout is, and small owls made on the spot."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from transformers.utils.logging import disable_progress_bar

from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
from tests.tiny import tiny_config, tiny_owl, tiny_processor

# Goldens and photographs that the project may read but not ship; tests that need them are skipped where they are absent.
SHARED = Path(__file__).parents[2] / "shared"

disable_progress_bar()
# The longest: begun first where several processes share the tests, or one would end long after the others.
LONG = ("test_owleval_memory.py", "test_kills.py", "test_processes.py", "test_demo.py", "test_documentation.py")

# The same examples in every run, and no folder of them left behind.
settings.register_profile("owl", deadline=None, derandomize=True, database=None)
settings.load_profile("owl")
# More threads than cores make these small products many times slower.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Every warning is an error, but this one is between peft 0.21 and transformers 5.23."""
    config.addinivalue_line("filterwarnings", "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first in a process of pytest-xdist's; alone, in the order of their files."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is learnt about files is kept nowhere in the home of who runs the tests. matplotlib's list of fonts stays there."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(usual / "matplotlib"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """No name but this machine's own is known, as where there is no network: what a test sees is the same everywhere."""
    resolve = socket.getaddrinfo

    def known(host: str | bytes | None, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and name not in ("localhost", socket.gethostname()):
            try:
                ipaddress.ip_address(name)
            except ValueError:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
        return resolve(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", known)
        yield


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a command sets for its process, such as how quiet libraries are, ends with its test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    return SHARED


@pytest.fixture(scope="session")
def owl() -> MplugOwlForConditionalGeneration:
    """A small owl with random weights; tests that change it build their own."""
    return tiny_owl(tiny_config())


@pytest.fixture(scope="session")
def processor(owl: MplugOwlForConditionalGeneration) -> MplugOwlProcessor:
    """The small owl's processor; its tokens are bytes."""
    return tiny_processor(owl)
