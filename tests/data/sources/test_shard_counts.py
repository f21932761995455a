"""How many samples shards hold before they are read, and what is shown where that was wrong."""

import json
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.conversation import Conversation
from mplug_owl.data.sources import read, shard_contents, shard_counts
from mplug_owl.data.sources.shard_counts import ESTIMATE, HEADERS, PARQUET, STATS
from mplug_owl.data.sources.shards import Shards, open_shards
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.layouts import every, parquet, shard, tar


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """None is read at opening; which shards' headers are, by name."""
    looked, real = list[str](), shard_contents.tars
    monkeypatch.setattr(shard_counts, "READ_AT_OPENING", -1)
    monkeypatch.setattr(shard_contents, "tars", lambda file: looked.append(file.name) or real(file))
    shard_contents.contents_of.cache_clear()
    return looked


def say(folder: Path, *successes: object) -> None:
    for number, said in enumerate(successes):
        (folder / f"{number:05d}_stats.json").write_text(json.dumps({"count": 9, "successes": said}))


def test_stats_are_believed_until_a_shard_is_needed(shards: Path, unread: list[str]) -> None:
    say(shards, 3, 1, 2)
    source = read(str(shards))
    assert source.blocks.tolist() == [3, 1, 2]  # type: ignore[attr-defined]
    assert unread == []
    assert source[3].name == "00001.tar, 000010000.jpg"
    assert unread == ["00001.tar"]
    assert [talk.name[:5] for talk in every(source)] == ["00000"] * 3 + ["00001"] + ["00002"] * 2
    assert open_shards(str(shards)).is_exact  # by what is kept now


def test_a_set_that_is_small_is_read_as_it_is_whatever_stats_say(shards: Path) -> None:
    say(shards, 1, 1, 1)
    assert open_shards(str(shards)).blocks.tolist() == [3, 1, 2]


def test_stats_that_lie_are_said_once(shards: Path, unread: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    say(shards, 2, 4, 2)
    source = read(str(shards))
    assert capsys.readouterr().err == ""
    assert [talk.name[11:20] for talk in every(source)] == [
        *("000000000", "000000001", "000010000", "000010000", "000010000", "000010000", "000020000", "000020001")
    ]
    said = "00000.tar: holds 3 samples where its _stats.json says 2; its last 1 are not shown, and so on in others\n"
    assert capsys.readouterr().err == said


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any))
def test_every_slot_shows_a_sample_of_its_shard(slots: list[int]) -> None:
    """Each another where there are enough, and each at least once where there are not."""
    found = Shards.__new__(Shards)
    held = (3, 1, 2)
    found._take(shard_counts.Counts((), np.array(slots), np.array([ESTIMATE] * 3), ()))
    found._contents = lambda shard: shard_contents.Contents(np.zeros(held[shard]), {})  # type: ignore[method-assign]
    rows = [found.row(index) for index in range(len(found))]
    for number, (samples, number_of_slots) in enumerate(zip(held, slots, strict=True)):
        shown = [row for shard, row in rows if shard == number]
        assert len(shown) == number_of_slots
        assert set(shown) <= set(range(samples))
        assert len(set(shown)) == min(samples, number_of_slots)


@pytest.mark.parametrize("nonsense", ["many", None, -1, 1.5, True, 10**15, [3]])
def test_stats_that_cannot_be_are_not_believed(shards: Path, unread: list[str], nonsense: object) -> None:
    say(shards, nonsense, 1, 2)
    assert open_shards(str(shards)).said_by.tolist() == [ESTIMATE, STATS, STATS]


def test_a_table_beside_a_shard_counts_it(shards: Path, unread: list[str]) -> None:
    for number, states in enumerate((["success", "failed_to_download", "success", "success"], ["success"], ["success"] * 2)):
        parquet(shards / f"{number:05d}.parquet", [{"status": state, "url": "u"} for state in states])
    found = open_shards(f"{shards}/*.tar")
    assert (found.blocks.tolist(), found.said_by.tolist()) == ([3, 1, 2], [PARQUET] * 3)
    assert unread == []


def test_sizes_say_it_where_nobody_does(
    tmp_path: Path, unread: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = [20 + number % 7 for number in range(40)]
    for number, samples in enumerate(counts):
        (tmp_path / f"{number:05d}.tar").write_bytes(tar(shard(number, samples)))
    monkeypatch.setattr(shard_counts, "HEAD", 40_000)
    found = open_shards(str(tmp_path))
    assert (unread, set(found.said_by)) == ([], {ESTIMATE})
    assert np.abs(found.blocks - counts).max() <= 4  # a tar file ends at a multiple of 10,240 bytes, of four samples here
    assert abs(found.blocks.sum() / sum(counts) - 1) < 0.1  # measured 0.08
    assert capsys.readouterr().err.endswith("how many samples 40 of 40 shards hold is estimated by their sizes\n")


def test_those_that_were_read_are_exact_and_few_are_read_at_opening(shards: Path, unread: list[str]) -> None:
    say(shards, 9, 9, 9)
    source = open_shards(str(shards))
    assert source[20]["caption"] == "picture 0 of shard 2"
    found = open_shards(str(shards))
    assert (found.blocks.tolist(), found.said_by.tolist()) == ([9, 9, 2], [STATS, STATS, HEADERS])


def test_a_broken_shard_that_is_met_later_is_named(shards: Path, unread: list[str]) -> None:
    say(shards, 3, 1, 2)
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:900])
    source = read(str(shards))
    with pytest.raises(UserError, match=r"00001\.tar: damaged or cut short at byte 900"):
        source[3]
    skipping = read(f"webdataset:{shards}#skip-broken")
    for _ in range(2):
        with pytest.raises(BadSample, match=r"left out: .*00001\.tar: damaged or cut short at byte 900"):
            skipping[3]
    assert unread.count("00001.tar") == 2  # once for each source
    assert isinstance(skipping[4], Conversation)


def test_where_every_shard_is_broken_the_first_says_so(tmp_path: Path, unread: list[str]) -> None:
    for number in range(3):
        (tmp_path / f"{number:05d}.tar").write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(UserError, match=r"0000\d\.tar: not a tar file"):
        open_shards(str(tmp_path))


def test_remote_shards_are_not_fetched_to_be_counted(shards: Path, unread: list[str], store: fsspec.AbstractFileSystem) -> None:
    say(shards, 3, 1, 2)
    for path in shards.iterdir():
        store.pipe(f"/far/{path.name}", path.read_bytes())
    found = open_shards("memory://far/*.tar")
    assert (found.blocks.tolist(), found.said_by.tolist(), unread) == ([3, 1, 2], [STATS] * 3, [])
    assert found[5]["caption"] == "picture 1 of shard 2"


def test_thousands_are_opened_at_once(tmp_path: Path, unread: list[str]) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(tar(shard(0, 3)))
    for number in range(500):
        (tmp_path / f"{number:05d}.tar").hardlink_to(whole)
        (tmp_path / f"{number:05d}_stats.json").write_text('{"successes": 3}')
    began = time.process_time()
    source = open_shards(f"{tmp_path}/{{00000..00499}}.tar")
    assert (len(source), unread) == (1_500, [])
    assert source[1_499]["caption"] == "picture 2 of shard 0"
    assert time.process_time() - began < 2  # measured 0.2
