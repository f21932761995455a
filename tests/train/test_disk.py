"""A disk that fills up: lines are whole or held back, checkpoints keep the one before, and a run says so and goes on."""

import contextlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mplug_owl.errors import WriteError
from mplug_owl.train import checkpoint, metrics
from mplug_owl.train.disk import JsonLines, read
from mplug_owl.train.reporter import Progress
from mplug_owl.writing import writing
from tests.school import initial_model, lesson, lessons, quietly

USUAL, _ = resource.getrlimit(resource.RLIMIT_FSIZE)


def limit_files(size: int) -> None:
    """From now on no file may grow beyond this many bytes: writes fail as on a full disk, by the kernel's own hand."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def disk() -> Iterator[None]:
    yield
    limit_files(USUAL)


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    limit_files(size)
    try:
        yield
    finally:
        limit_files(USUAL)


def test_a_line_is_held_back_until_there_is_room(tmp_path: Path) -> None:
    told: list[str] = []
    lines = JsonLines(tmp_path / "rows.jsonl", note=told.append)
    lines.write({"step": 1, "words": "a" * 60})
    with room(100):
        for step in (2, 3):
            lines.write({"step": step, "words": "a" * 60})
        assert [row["step"] for row in read(lines.path)] == [1]
        assert lines.path.read_text().endswith("}\n")  # not half a line
    assert told == ["rows.jsonl not written ([Errno 27] File too large); its lines are held back until there is room"]
    lines.write({"step": 4})
    assert [row["step"] for row in read(lines.path)] == [1, 2, 3, 4]


def test_a_line_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n{"st\xc3')
    JsonLines(tmp_path / "rows.jsonl").write({"step": 3})
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [{"step": n} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(bytes(50_000)),
        lambda path: torch.save(torch.zeros(12_500), path),
        lambda path: save_file({"a": torch.zeros(12_500)}, path),
    ],
    ids=["python", "torch", "safetensors"],
)
def test_whoever_writes_it_is_one_kind_of_error(write: Callable[[Path], object], tmp_path: Path) -> None:
    with room(10_000), pytest.raises(WriteError, match=r"^the file could not be written \("), writing("the file"):
        write(tmp_path / "file")


def test_what_is_no_failed_write_stays_what_it_is() -> None:
    """A mistake in a program, though it happens while something is written."""
    with pytest.raises(RuntimeError, match=r"^shapes do not match$") as caught, writing("the file"):
        raise RuntimeError("shapes do not match")
    assert not isinstance(caught.value, WriteError)
    with pytest.raises(ValueError, match=r"^not a tensor$"), writing("the file"):
        raise ValueError("not a tensor")


@pytest.mark.usefixtures("disk")
def test_while_it_is_full_a_run_goes_on_and_says_so(tmp_path: Path) -> None:
    """Full from step 3 to step 6: two checkpoints are lost, the lines come later, and the end is that of any other run."""
    recipe, sources = lesson(steps=8, save_every=2), lessons(tmp_path / "data")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "whole")
    told: list[str] = []
    seen: list[list[str]] = []

    def fill(progress: Progress) -> None:
        if progress.step == 3:
            limit_files(200)
        if progress.step == 7:
            limit_files(USUAL)
            seen.append(sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()))

    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", report=fill, note=told.append)
    assert seen == [["step-00000002"]]
    assert [sentence.split(" (")[0] for sentence in told] == [
        "metrics.jsonl not written",
        "checkpoint of step 4 could not be written",
        "checkpoint of step 6 could not be written",
    ]
    assert "the one before it stays" in told[1]
    assert [row["step"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl")] == list(range(1, 9))
    ends = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "whole")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.usefixtures("disk")
def test_no_room_for_the_finished_model_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    recipe, sources = lesson(steps=4, save_every=2), lessons(tmp_path / "data")

    def fill(progress: Progress) -> None:
        if progress.step == 4:
            limit_files(5000)

    with pytest.raises(WriteError, match=r"^.*run/model could not be written \(.*File too large.*\)"):
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", report=fill)
    assert checkpoint.newest(tmp_path / "run" / "checkpoints")[0].step == 2
    limit_files(USUAL)
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", resume=True)
    assert [row["step"] for row in metrics.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
