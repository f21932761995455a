"""A run that began with numbers of samples that were not exact is resumed with the same, whatever is known by then."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mplug_owl.data.sources import read, shard_counts
from mplug_owl.data.sources.indexing import begin_beside, index
from mplug_owl.data.sources.shard_contents import contents_of
from mplug_owl.data.sources.shards import open_shards
from mplug_owl.data.survey import Survey
from mplug_owl.errors import UserError
from mplug_owl.train import counted, metrics
from mplug_owl.train.recipe import override
from tests.data.sources.layouts import shard, tar
from tests.school import PowerCutError, initial_model, killed_at, lesson, quietly

RECIPE = override(lesson(), ["steps=4", "save_every=2", "index=false"])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four shards of which stats say something else, and which nobody has read."""
    monkeypatch.setattr(shard_counts, "READ_AT_OPENING", -1)
    forget(tmp_path / "cache", monkeypatch)
    folder = tmp_path / "data"
    folder.mkdir()
    for number, (samples, said) in enumerate([(3, 4), (5, 2), (2, 2), (4, 5)]):
        (folder / f"{number:05d}.tar").write_bytes(tar(shard(number, samples)))
        (folder / f"{number:05d}_stats.json").write_text(json.dumps({"successes": said}))
    return folder


def forget(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    contents_of.cache_clear()


def test_a_resumed_run_sees_what_the_whole_one_saw(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [read(str(data))]
    quietly(RECIPE, initial_model(RECIPE, whole), whole, tmp_path / "whole")
    forget(tmp_path / "another", monkeypatch)
    sources = [read(str(data))]
    owl = initial_model(RECIPE, sources)
    with pytest.raises(PowerCutError):
        quietly(RECIPE, owl, sources, tmp_path / "run", report=killed_at(3))

    index(str(data), is_beside=True)
    for path in data.glob("*_stats.json"):
        path.unlink()
    sources = [read(str(data))]
    assert sources[0].blocks.tolist() == [3, 5, 2, 4]  # type: ignore[attr-defined]
    quietly(RECIPE, initial_model(RECIPE, whole), sources, tmp_path / "run", resume=True)
    rows = [metrics.read(tmp_path / run / "metrics.jsonl") for run in ("whole", "run")]
    assert [[row["loss"], row["grad_norm"]] for row in rows[1]] == [[row["loss"], row["grad_norm"]] for row in rows[0]]


def test_a_run_without_the_file_had_read_every_shard(data: Path, tmp_path: Path) -> None:
    sources = [read(str(data))]
    run = tmp_path / "run"
    assert counted.slots_of(sources, run, resumed=True)[0][1].tolist() == [4, 2, 2, 5]  # it has not begun
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    slots = counted.slots_of(sources, run, resumed=True)
    assert slots[0][1].tolist() == [3, 5, 2, 4]
    survey = Survey(sources)
    assert len(counted.with_slots(survey, slots).sources[0]) == 14
    assert counted.with_slots(survey, counted.slots_of(sources, run, resumed=False)) is survey


def test_slots_are_kept_and_damage_is_said(data: Path, tmp_path: Path) -> None:
    sources = [read("scenes:captions"), read(str(data))]
    slots = counted.slots_of(sources, tmp_path, resumed=False)
    counted.write(tmp_path, slots)
    kept = counted.slots_of(sources, tmp_path, resumed=True)
    assert list(kept) == [1]
    assert (kept[1][0], kept[1][1].tolist()) == (slots[1][0], [4, 2, 2, 5])
    (data / "00002.tar").unlink()
    with pytest.raises(UserError, match=r"00002\.tar: the run began with this shard and it is not there$"):
        counted.with_slots(Survey([sources[0], read(str(data))]), kept)
    (data / "00003.tar").unlink()
    with pytest.raises(UserError, match=r"is not there, nor 1 more of its shards$"):
        counted.with_slots(Survey([sources[0], read(str(data))]), kept)
    (tmp_path / counted.NAME).write_bytes(b"owl")
    with pytest.raises(UserError, match=r"shards\.npz: damaged"):
        counted.slots_of(sources, tmp_path, resumed=True)


def test_shards_that_were_added_since_are_left_to_the_next_run(data: Path) -> None:
    before = open_shards(str(data))
    (data / "00001b.tar").write_bytes(tar(shard(9, 1)))
    pinned = open_shards(str(data)).with_slots([file.address for file in before.files], before.blocks)
    assert [pinned.location(index) for index in range(len(pinned))] == [before.location(index) for index in range(len(before))]
    assert np.array_equal(pinned.said_by, before.said_by)


@pytest.mark.slow
def test_the_index_goes_on_beside_a_run_and_ends_with_it(data: Path, tmp_path: Path) -> None:
    begin_beside(str(data)).wait(120)
    assert open_shards(str(data)).is_exact
    code = (
        "import sys, time; from mplug_owl.data.sources.indexing import begin_beside\n"
        "print(begin_beside(sys.argv[1]).pid, flush=True); time.sleep(600)"
    )
    for number in range(2_000):
        (data / f"more-{number:05d}.tar").hardlink_to(data / "00001.tar")
    run = subprocess.Popen([sys.executable, "-c", code, str(data)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    beside = int(run.stdout.readline())
    run.stdout.close()
    run.kill()
    run.wait()
    deadline = time.monotonic() + 120
    while Path(f"/proc/{beside}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{beside}").exists()
    assert any((tmp_path / "cache").iterdir())
