"""benchmarks/order.py: shards of one kind each, and a picture of curves."""

from pathlib import Path

import numpy as np

from benchmarks import order
from mplug_owl.data.sources import read


def test_a_shard_holds_one_kind(tmp_path: Path) -> None:
    order.write_shards(tmp_path, read("scenes:captions"), shards=6, size=4)
    source = read(f"webdataset:{tmp_path}")
    kinds = [order._kind(source[index].answers[0]) for index in range(len(source))]
    assert len(source) == 24
    assert source.blocks.tolist() == [4] * 6
    assert kinds == sorted(kinds)


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    order.draw([(title, np.linspace(3, 1, 40)) for title, _, _ in order.ORDERS], tmp_path / "order.png")
    assert (tmp_path / "order.png").read_bytes().startswith(b"\x89PNG")
