"""The learning rate as a function of the step, and what decays."""

import math

import pytest
import torch
from torch import nn

from mplug_owl.recipes import paper
from mplug_owl.train.optim import adamw, learning_rate
from mplug_owl.train.recipe import AdamW
from tests.tiny import tiny_config, tiny_owl

SETTINGS = AdamW(lr=1.0, warmup_steps=10, weight_decay=0.1, betas=(0.9, 0.98), min_lr=0.2)


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
    assert learning_rate(SETTINGS, step, 110) == pytest.approx(rate, rel=1e-12)


def test_a_run_may_be_all_warm_up_or_none() -> None:
    assert learning_rate(SETTINGS, 4, 5) == 0.5
    assert learning_rate(AdamW(1.0, 0, 0.1, (0.9, 0.98)), 0, 1) == 1.0


def test_the_papers_first_stage() -> None:
    settings = paper.pretrain().optimizer
    assert [learning_rate(settings, step, 50_000) for step in (0, 1999, 26_000)] == pytest.approx([5e-8, 1e-4, 5e-5])
    assert learning_rate(settings, 49_999, 50_000) < 1e-12


def test_only_matrices_decay() -> None:
    owl = tiny_owl(tiny_config())
    owl.requires_grad_(False)
    owl.model.abstractor.requires_grad_(True)
    matrices, rest = adamw(owl, SETTINGS).param_groups
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in owl.model.abstractor.named_parameters()}
    decaying, still = ({names.pop(id(parameter)) for parameter in group["params"]} for group in (matrices, rest))
    assert not names
    assert {"query_tokens", "visual_fc.weight", "layers.0.attention.query.weight", "layers.1.mlp.w2.weight"} <= decaying
    assert {"vit_eos", "visual_fc.bias", "layers.0.norm1.weight", "layers.1.mlp.ffn_ln.bias"} <= still
    assert not any("norm" in name or "bias" in name or "ffn_ln" in name for name in decaying)


def test_a_step_takes_the_settings() -> None:
    module = nn.Linear(2, 2)
    optimizer = adamw(module, SETTINGS)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.fill_(1.0)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(module.weight, torch.full((2, 2), 0.9))  # 1 - lr * weight_decay, the gradient being zero
    assert torch.equal(module.bias, torch.ones(2))
