"""What the tests of the sources share: a cache of their own, three shards, a store in memory."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.data.sources.layouts import shard, tar


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept in the home of who runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "mplug-owl"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 3, 1 and 2 samples, and what else img2dataset leaves beside them."""
    for number, count in enumerate((3, 1, 2)):
        (tmp_path / f"{number:05d}.tar").write_bytes(tar(shard(number, count)))
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    return tmp_path


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
