"""A step waits for its device where docs/architecture.md says, and nowhere else."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.host_syncs import HostSyncs, counted
from mplug_owl.model.attention import PACKED, use_packed_attention
from mplug_owl.train import loop
from tests.school import initial_model, lesson, lessons, quietly

ARCHITECTURE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text("utf-8")
# Place: how often in a step, and how often in each forward pass.
NAMED = {
    place: (int(step), int(every_pass))
    for place, step, every_pass in re.findall(r"^\| `([\w/]+\.py:\w+)` \| (\d+) \| (\d+) \|", ARCHITECTURE, re.MULTILINE)
}


def found_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> tuple[Counter[str], int]:
    """The places of a run's second step, and how many forward passes it had."""
    (tmp_path / "data").mkdir()
    sources = lessons(tmp_path / "data")
    recipe = replace(lesson(), steps=3, threads=1, log_every=100, workers=0)
    if packed:
        recipe = replace(recipe, encoding=replace(recipe.encoding, pack=256))
    owl = initial_model(recipe, sources)
    if packed:  # as the loop does on a card; here the kernel's inputs are made and sdpa computes
        use_packed_attention(owl.model.model.language_model)
        assert owl.model.model.language_model.config._attn_implementation == PACKED
    places: list[Counter[str]] = []
    passes: list[int] = []
    backward = loop.forward_backward

    def noted(run, number, batches, supervised):
        passes.append(len(batches))
        return backward(run, number, batches, supervised)

    original = loop.step_loader
    monkeypatch.setattr(loop, "step_loader", lambda *given: counted(original(*given), places))
    monkeypatch.setattr(loop, "forward_backward", noted)
    quietly(recipe, owl, sources, tmp_path / "run")
    return places[1], passes[1]


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_step_waits_where_it_is_said_and_no_oftener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    places, passes = found_in_a_run(tmp_path, monkeypatch, packed)
    assert places["train/loop.py:take_step"] >= 1, "the count sees nothing"
    for place, times in places.items():
        assert place in NAMED, f"{place} makes the host wait, {times} times a step; docs/architecture.md does not name it"
        step, every_pass = NAMED[place]
        assert times <= step + every_pass * passes, place


def test_what_waits_is_counted() -> None:
    values, mask, counts = torch.arange(4), torch.tensor([True, False, True, True]), torch.tensor([1, 2, 0, 1])
    with HostSyncs() as syncs:
        values[mask]
        values[mask] = 1
        mask.nonzero()
        int(values.sum())
        bool(mask.any())
        values.tolist()
        values.repeat_interleave(counts)
    assert syncs.places["elsewhere"] == 7
    with HostSyncs() as syncs:
        values[torch.tensor([0, 1])]
        values.masked_fill(mask, 0)
        torch.where(mask, values, 0)
        values.repeat_interleave(counts, output_size=4)
        torch.full((2,), 1.0).sum()
    assert not syncs.places
