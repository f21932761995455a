"""Samples that cannot be read: sixty of a thousand, each with its reason, and the others learned in their order."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from mplug_owl.data.loader import BadRecord
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import read as read_source
from mplug_owl.errors import UserError
from mplug_owl.train import disk, loop, metrics
from mplug_owl.train.quarantine import Quarantine
from mplug_owl.train.reporter import Silent
from mplug_owl.train.run import train
from tests.school import initial_model, lesson, quietly, taught

SAMPLES, BATCH = 1000, 50
FORWARD_BACKWARD = loop.forward_backward


def encoded(layout: str, size: tuple[int, int] = (28, 28)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 90, 30)).save(file, layout)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return parts + encoded("PNG")[33:]


def talk(picture: object, answer: object = "A square.") -> dict:
    return {"images": [picture], "messages": [{"role": "user", "content": "<image>What?"}, said(answer)]}


def said(answer: object) -> dict:
    return {"role": "assistant", "content": answer}


# Twelve ways to break the picture and eight to break the record; what the reason says of each.
PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated.jpg": (lambda path: path.write_bytes(encoded("JPEG", (200, 200))[:-300]), "damaged or cut short"),
    "headless.jpg": (lambda path: path.write_bytes(encoded("JPEG")[40:]), "not a picture in a known format"),
    "truncated.png": (lambda path: path.write_bytes(encoded("PNG")[:60]), "damaged or cut short"),
    "garbled.png": (lambda path: path.write_bytes(encoded("PNG")[:41] + b"\xff" * 40), "damaged or cut short"),
    "empty.png": (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
    "zeros.jpg": (lambda path: path.write_bytes(bytes(4096)), "not a picture in a known format"),
    "bomb.png": (lambda path: path.write_bytes(bomb()), "more than the 64,000,000 pixels allowed"),
    "page.jpg": (lambda path: path.write_text("<html>404 Not Found</html>"), "not a picture in a known format"),
    "drawing.eps": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "not a picture in a known format"),
    "folder.png": (lambda path: path.mkdir(), "no picture"),
    "absent.png": (lambda path: None, "no picture"),
    "circle.png": (lambda path: path.symlink_to(path.name), "no picture"),
}
RECORDS: dict[str, tuple[bytes, str]] = {
    "cut": (json.dumps(talk("00000.png")).encode()[:-20], "not JSON"),
    "zeros": (bytes(50), "not JSON"),
    "latin": (json.dumps(talk("00000.png", "caf_")).encode().replace(b"_", b"\xe9"), "not UTF-8 text"),
    "deep": (b'{"messages": ' + b"[" * 100_000, "nested too deeply"),
    "number": (b"17", "expected an object"),
    "other fields": (b'{"text": 3}', "no field"),
    "silent": (json.dumps({"messages": [{"role": "user", "content": "What?"}]}).encode(), "no answer"),
    "unnamed": (json.dumps(talk(None)).encode(), "an image is null"),
}


def school(folder: Path, broken: Sequence[int]) -> Path:
    """A thousand chats about as many pictures, those at `broken` broken in all ways there are, in turn."""
    (folder / "images").mkdir(parents=True)
    ways = [*PICTURES, *RECORDS]
    lines = []
    for index in range(SAMPLES):
        way = ways[broken.index(index) % len(ways)] if index in broken else None
        picture = f"images/{index:05}.png"
        line = json.dumps(talk(picture, f"Number {index}.")).encode()
        if way in RECORDS:
            line = RECORDS[way][0]
        elif way is not None:
            picture = f"images/{index:05}_{way}"
            PICTURES[way][0](folder / picture)
            line = json.dumps(talk(picture)).encode()
        else:
            (folder / picture).write_bytes(encoded("PNG"))
        lines.append(line)
    (folder / "chats.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "chats.jsonl"


@pytest.fixture(scope="module")
def broken() -> list[int]:
    return sorted(Random(0).sample(range(SAMPLES), 60))


@pytest.fixture(scope="module")
def thousand(broken: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return school(tmp_path_factory.mktemp("thousand"), broken)


def learned_in_order(file: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **fields) -> list[str]:
    """Train one epoch; the names of the samples that were learned from, in their order."""
    names: list[str] = []

    def listening(run, number, batches, supervised):
        names.extend(name for batch in batches for name in batch.names)
        return FORWARD_BACKWARD(run, number, batches, supervised)

    monkeypatch.setattr(loop, "forward_backward", listening)
    recipe = lesson(steps=SAMPLES // BATCH, batch=BATCH, micro_batch=BATCH, log_every=SAMPLES, **fields)
    sources = [read_source(f"chat:{file}")]
    quietly(recipe, initial_model(recipe, sources), sources, out)
    return names


def line_of(name: str) -> int:
    """`chats.jsonl, line 17` to index 16."""
    return int(name.partition("line ")[2].partition(",")[0]) - 1


def test_sixty_of_a_thousand_are_quarantined_and_the_others_keep_their_order(
    broken: list[int], thousand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learned_in_order(school(tmp_path / "whole", []), tmp_path / "run of all", monkeypatch)
    assert sorted(map(line_of, whole)) == list(range(SAMPLES))
    learned = learned_in_order(thousand, tmp_path / "run", monkeypatch, max_bad_share=0.1)
    assert len(learned) == 940
    assert learned == [name for name in whole if line_of(name) not in broken]

    rows = disk.read(tmp_path / "run" / "quarantine.jsonl")
    assert sorted(row["index"] for row in rows) == broken
    assert {row["source"] for row in rows} == {f"chat:{thousand}"}
    reasons = {row["index"]: row["reason"] for row in rows}
    told = [expected for _, expected in (*PICTURES.values(), *RECORDS.values())]
    assert len(told) == 20  # each way three times
    for place, index in enumerate(broken):
        assert told[place % len(told)] in reasons[index]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_more_than_the_share_ends_the_run_before_it_starts(thousand: Path, tmp_path: Path) -> None:
    recipe = lesson(steps=20, batch=BATCH, micro_batch=BATCH, data=(f"chat:{thousand}",))
    with pytest.raises(ValueError, match=r"^60 of 1000 records cannot be read, more than max_bad_share=0\.05 allows:\n"):
        train(recipe, tmp_path / "run", reporter=Silent())
    assert not (tmp_path / "run").exists()


def test_more_than_the_share_ends_a_run_that_finds_them_on_its_way(
    thousand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with sources too large to be read through first."""
    told = r"^\d+ of \d+ samples cannot be read, more than the 5% allowed by max_bad_share; they are listed in .*quarantine"
    with pytest.raises(ValueError, match=told):
        learned_in_order(thousand, tmp_path / "run", monkeypatch)
    assert len(disk.read(tmp_path / "run" / "quarantine.jsonl")) > 10
    assert not (tmp_path / "run" / "model").exists()


def test_bad_samples_are_written_down_once_each_and_too_many_end_the_run(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", share=0.05)
    broken = [BadRecord("a.jsonl", index, "not a picture") for index in (3, 7)]
    quarantine.add(broken, 100)
    quarantine.add(broken[:1], 90)
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert rows == [{"source": "a.jsonl", "index": index, "reason": "not a picture"} for index in (3, 7)]
    Quarantine(tmp_path / "quarantine.jsonl", share=0.05).add(broken, 100)
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match=r"13 of 200 samples cannot be read, more than the 5% allowed by max_bad_share"):
        quarantine.add([BadRecord("b.jsonl", index, "cut short") for index in range(10)], 10)


@pytest.mark.parametrize(
    ("bad", "seen", "ends"),
    [
        (0, 4, False),
        (1, 4, False),  # one is bad luck
        (2, 4, False),
        (3, 4, True),  # three of four are not: were 5 % bad, it would happen once in two thousand runs
        (4, 4, True),
        (2, 2, False),
        (6, 50, False),
        (9, 50, True),
        (22, 199, True),
        (10, 200, False),
        (11, 200, True),  # from here on the share itself counts
    ],
)
def test_a_high_share_is_seen_among_few_samples_too(bad: int, seen: int, ends: bool) -> None:
    quarantine = Quarantine(None, share=0.05)
    records = [BadRecord("a.jsonl", index, "cut short") for index in range(bad)]
    if not ends:
        quarantine.add(records, seen)
    else:
        with pytest.raises(UserError, match=rf"^{bad} of {seen} samples cannot be read, more than the 5% allowed"):
            quarantine.add(records, seen)


def test_a_short_run_in_which_nothing_can_be_read_ends(tmp_path: Path) -> None:
    """It has learned nothing, whatever its losses are."""
    file = school(tmp_path / "data", range(4))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    recipe, sources = lesson(steps=1, batch=4, micro_batch=4), [read_source(f"chat:{file}")]
    with pytest.raises(UserError, match="4 of 4 samples cannot be read"):
        quietly(recipe, taught(), sources, tmp_path / "run")
    assert len(disk.read(tmp_path / "run" / "quarantine.jsonl")) == 4
    assert not (tmp_path / "run" / "model").exists()


def test_bad_samples_are_counted_in_every_line_of_metrics(thousand: Path, broken: list[int], tmp_path: Path) -> None:
    recipe = lesson(steps=SAMPLES // BATCH, batch=BATCH, micro_batch=BATCH, log_every=6, max_bad_share=0.1)
    sources = [read_source(f"chat:{thousand}")]
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 6, 12, 18, 20]
    assert sum(row["bad_samples"] for row in rows) == len(broken)
    mixture = Mixture([SAMPLES], [None], BATCH, recipe.seed)
    assert rows[0]["bad_samples"] == sum(sample.index in broken for sample in mixture.step(0))
