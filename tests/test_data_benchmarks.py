"""The benchmarks of data and packing, at a small size: they measure, with an owl whose rows may be packed."""

from pathlib import Path

import pytest

from benchmarks import data, packing
from mplug_owl.data.sources import read


def test_a_training_says_how_long_it_waited(tmp_path: Path) -> None:
    data.shard(tmp_path / "00000.tar", 128, 64)
    source = read(f"webdataset:{tmp_path}/00000.tar")
    assert data.speed(source, 128, None) > 0
    assert 0 <= data.waited(source, 2, tmp_path / "run") < 1


def test_packed_rows_lose_what_padded_ones_lose() -> None:
    measured = packing.main(limit=128, samples=32)
    assert measured["packed"][0] < 0.1 < 0.4 < measured["padded"][0]
    assert measured["packed"][2] == pytest.approx(measured["padded"][2], abs=1e-5)  # measured 4e-7
