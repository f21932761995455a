"""Twenty damaged checkpoints: a byte flipped or a file cut anywhere in any file, and the one before takes its place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl.model.build import Modules
from mplug_owl.train import checkpoint, metrics
from mplug_owl.train.recipe import LoRA
from tests.school import PowerCutError, initial_model, killed_at, lesson, lessons, quietly, small_with_dropout

TRIES = 20
# In these the whole run goes on behind the damage and its end is compared; in all, what it would go on from.
FINISHED = (0, 1)
RECIPE = lesson(
    "full", "full", "lora", steps=6, save_every=2, lora=LoRA(rank=2, alpha=4, dropout=0.3),
    modules=Modules(small_with_dropout, vocabulary=300),
)  # fmt: skip


def learn(data: Path, out: Path, **options) -> Path:
    sources = lessons(data)
    quietly(RECIPE, initial_model(RECIPE, sources), sources, out, **options)
    return out


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    return learn(data, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def broken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run killed in step 5, with checkpoints behind steps 2 and 4."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.raises(PowerCutError):
        learn(data, folder, report=killed_at(5))
    return folder


def flip(held: bytearray, random: Random) -> str:
    place = random.randrange(len(held))
    held[place] ^= 1 << random.randrange(8)
    return f"byte {place} flipped"


def cut(held: bytearray, random: Random) -> str:
    place = random.randrange(len(held))
    del held[place:]
    return f"cut at {place}"


def damage(folder: Path, random: Random, how: Callable[[bytearray, Random], str], turn: int) -> str:
    """Damage one file, each in its turn; what was done to which."""
    files = sorted(folder.iterdir())
    file = files[turn % len(files)]
    held = bytearray(file.read_bytes())
    done = how(held, random)
    file.write_bytes(held)
    return f"{file.name}: {done}"


@pytest.mark.parametrize("turn", range(TRIES))
def test_the_one_before_takes_its_place(turn: int, broken: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    random, run = Random(turn), Path(shutil.copytree(broken, tmp_path / "run"))
    done = damage(run / "checkpoints" / "step-00000004", random, flip if turn % 2 else cut, turn // 2)
    told: list[str] = []
    if turn in FINISHED:
        learn(data, run, resume=True, note=told.append)
        found, notes = checkpoint.newest(run / "checkpoints")
        assert (found.step, notes) == (4, [])  # written anew
    else:
        found, told = checkpoint.newest(run / "checkpoints")
        assert found.step == 2, done
    damaged = done.partition(":")[0].replace("manifest.sha256", "manifest.json")
    assert told[0].startswith("step-00000004: "), done
    assert damaged in told[0] or "cannot be read" in told[0], (done, told)
    assert told[0].endswith("; renamed to step-00000004.damaged")
    assert (run / "checkpoints" / "step-00000004.damaged").is_dir()
    if turn in FINISHED:
        assert told[1] == f"{run}: resuming after step 2"
        assert same(run, whole)


def same(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    lines = [
        [(row["step"], row["loss"], row["grad_norm"]) for row in metrics.read(run / "metrics.jsonl")] for run in (one, other)
    ]
    return lines[0] == lines[1] and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_disk_that_cannot_read_is_as_good_as_damage(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, digest = Path(shutil.copytree(broken, tmp_path / "run")), checkpoint._digest

    def unreadable(file: Path) -> str:
        if file.parent.name == "step-00000004" and file.name == checkpoint.WEIGHTS:
            raise OSError(5, "Input/output error")
        return digest(file)

    monkeypatch.setattr(checkpoint, "_digest", unreadable)
    found, (told,) = checkpoint.newest(run / "checkpoints")
    assert found.step == 2
    assert told == "step-00000004: cannot be read ([Errno 5] Input/output error); renamed to step-00000004.damaged"


def test_anybody_can_check_a_checkpoint(broken: Path) -> None:
    """`sha256sum -c manifest.sha256` reads the seal."""
    seal = (broken / "checkpoints" / "step-00000004" / "manifest.sha256").read_text()
    digest, name = seal.rstrip("\n").split("  ")
    assert (len(digest), name) == (64, "manifest.json")


def test_both_damaged_it_starts_again(broken: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    run, told = Path(shutil.copytree(broken, tmp_path / "run")), []
    for step in (2, 4):
        (run / "checkpoints" / f"step-0000000{step}" / "optimizer.pt").unlink()
    learn(data, run, resume=True, note=told.append)
    assert told[2] == f"{run}: no whole checkpoint; starting from the beginning"
    assert same(run, whole)
