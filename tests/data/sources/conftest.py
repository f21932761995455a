"""What the tests of the sources share: a cache of their own, three shards, a store in memory."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.data.sources.layouts import shard, tar
from tests.tiny import picture

Write = Callable[[str, Any], Path]


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


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file beside two pictures: text as it is, a list as a JSON list or, for .jsonl, as JSON lines."""
    picture(0).save(tmp_path / "cat.png")
    (tmp_path / "images").mkdir()
    picture(1).save(tmp_path / "images" / "dog.png")

    def write(name: str, content: Any) -> Path:
        if isinstance(content, list):
            lines = [json.dumps(record) for record in content]
            content = "\n".join(lines) if name.endswith(".jsonl") else json.dumps(content, indent=1)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write
