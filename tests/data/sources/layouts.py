"""Small files of the real layouts, for the tests of the sources."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.data.sources.source import Source
from tests.tiny import picture


def jpeg(seed: int = 0) -> bytes:
    picture(seed).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


def every(source: Source) -> list[Any]:
    return [source[index] for index in range(len(source))]


def broken(source: Source) -> dict[int, str]:
    """The conversations that cannot be had, and why."""
    problems = {}
    for index in range(len(source)):
        try:
            source[index]
        except ValueError as error:
            problems[index] = str(error)
    return problems


def tar(members: Mapping[str, bytes], **how: Any) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", **how) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return file.getvalue()


def sample(shard: int, number: int) -> dict[str, bytes]:
    """One sample as img2dataset writes it."""
    key, words = f"{shard:05d}{number:04d}", f"picture {number} of shard {shard}"
    about = {"caption": words, "url": "https://example.com/a.jpg", "key": key, "status": "success", "width": 40, "height": 30}
    return {f"{key}.jpg": jpeg(shard * 7 + number), f"{key}.json": json.dumps(about).encode(), f"{key}.txt": words.encode()}


def shard(number: int, count: int = 3) -> dict[str, bytes]:
    return {name: content for index in range(count) for name, content in sample(number, index).items()}


ROWS = [{"image": {"bytes": jpeg(seed), "path": f"{seed}.jpg"}, "caption": f"picture {seed}"} for seed in range(7)]


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 3) -> Path:
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=group)
    return path
