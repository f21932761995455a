"""What the benchmark of BLIP-2's first step counts as right."""

import pytest
import torch

from benchmarks.blip2 import BATCH, drawn, recipe, shares


def test_ties_count_as_a_blind_choice_among_them() -> None:
    alike = torch.tensor([[9.0, 1, 1, 9], [1, 9, 1, 1], [5, 5, 5, 5], [2, 3, 4, 1]])
    assert shares(alike).tolist() == [0.5, 1.0, 0.25, 0.0]
    same = torch.ones(BATCH, BATCH)
    assert shares(same).mean().item() == pytest.approx(1 / BATCH)


def test_its_scenes_are_always_the_same_and_its_batch_is_the_bar_s() -> None:
    assert [one.seed for one in drawn("seen", 3)] == [one.seed for one in drawn("seen", 5)][:3]
    made = recipe(100)
    assert (made.batch, made.micro_batch, made.objective, made.threads) == (32, 32, "blip2", 1)
