"""The learning rate as a function of the step."""

import math

import pytest
import torch

from mplug_owl.recipes import paper
from mplug_owl.train.recipe import Schedule
from mplug_owl.train.schedule import learning_rate, set_learning_rate

SCHEDULE = Schedule(warmup_steps=10, min_lr=0.2)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),  # the first step learns already
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (35, 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2),
        (60, 0.6),  # half way down
        (110, 0.2),
    ],
)
def test_up_in_a_line_and_down_a_half_cosine(step: int, rate: float) -> None:
    assert learning_rate(1.0, SCHEDULE, step, 110) == pytest.approx(rate, rel=1e-12)


def test_a_run_may_be_all_warm_up_or_none() -> None:
    assert learning_rate(1.0, SCHEDULE, 4, 5) == 0.5
    assert learning_rate(1.0, Schedule(warmup_steps=0), 0, 1) == 1.0


def test_the_papers_first_stage() -> None:
    recipe = paper.pretrain()
    lr, schedule = recipe.optimizer.lr, recipe.schedule
    assert [learning_rate(lr, schedule, step, 50_000) for step in (0, 1999, 26_000)] == pytest.approx([5e-8, 1e-4, 5e-5])
    assert learning_rate(lr, schedule, 49_999, 50_000) < 1e-12


def test_every_group_gets_its_share_of_the_rate() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [parameter], "scale": scale} for parameter, scale in zip(parameters, (1.0, 0.1), strict=True)]
    optimizer = torch.optim.AdamW(groups)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]
