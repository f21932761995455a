"""The optimiser: each module's own rate, what decays, Muon beside AdamW, and clipping."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from mplug_owl.train.optim import CombinedOptimizer, Muon, clip_gradients, make_optimizer
from mplug_owl.train.recipe import Optimizer, Rates
from mplug_owl.train.schedule import set_learning_rate
from mplug_owl.train.trainable import prepare
from tests.school import lesson
from tests.tiny import tiny_config, tiny_owl

SETTINGS = Optimizer(lr=1.0, weight_decay=0.1, betas=(0.9, 0.98))


def test_only_matrices_decay() -> None:
    owl = tiny_owl(tiny_config())
    owl.requires_grad_(False)
    owl.model.abstractor.requires_grad_(True)
    matrices, rest = make_optimizer(owl, SETTINGS).param_groups
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in owl.model.abstractor.named_parameters()}
    decaying, still = ({names.pop(id(parameter)) for parameter in group["params"]} for group in (matrices, rest))
    assert not names
    assert {"query_tokens", "visual_fc.weight", "layers.0.attention.query.weight", "layers.1.mlp.w2.weight"} <= decaying
    assert {"vit_eos", "visual_fc.bias", "layers.0.norm1.weight", "layers.1.mlp.ffn_ln.bias"} <= still
    assert not any("norm" in name or "bias" in name or "ffn_ln" in name for name in decaying)


def test_a_step_takes_the_settings() -> None:
    owl = tiny_owl(tiny_config(connector="linear"))
    owl.requires_grad_(False)
    module = owl.model.abstractor.project.requires_grad_(True)
    made = make_optimizer(owl, SETTINGS)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.fill_(1.0)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    torch.testing.assert_close(module.weight, torch.full_like(module.weight, 0.9))  # 1 - lr * decay, the gradient being zero
    assert torch.equal(module.bias, torch.ones_like(module.bias))


def test_a_module_may_learn_at_a_rate_of_its_own() -> None:
    owl = tiny_owl(tiny_config())
    prepare(owl, lesson("full", "full", "lora"))
    groups = make_optimizer(owl, replace(SETTINGS, rates=Rates(vision=0.1, language=3.0))).param_groups
    scales = {id(parameter): group["scale"] for group in groups for parameter in group["params"]}
    learning = {name: parameter for name, parameter in owl.named_parameters() if parameter.requires_grad}
    assert len(scales) == len(learning)
    for name, parameter in learning.items():
        expected = 0.1 if "vision_tower" in name else 1.0 if "abstractor" in name else 3.0
        assert scales[id(parameter)] == pytest.approx(expected), name
    assert {(group["scale"], group["weight_decay"]) for group in groups} == {
        (0.1, 0.1), (0.1, 0.0), (1.0, 0.1), (1.0, 0.0), (3.0, 0.1)
    }  # fmt: skip


def test_without_rates_there_are_two_groups_as_ever() -> None:
    owl = tiny_owl(tiny_config())
    assert [(group["scale"], group["lr"]) for group in make_optimizer(owl, SETTINGS).param_groups] == [(1.0, 1.0), (1.0, 1.0)]


def test_muon_takes_the_layers_matrices_and_adamw_the_rest() -> None:
    owl = tiny_owl(tiny_config())
    prepare(owl, lesson("full", "full", "lora"))
    made = make_optimizer(owl, replace(SETTINGS, muon=True))
    assert isinstance(made, CombinedOptimizer)
    rest, matrices = ({id(one) for group in part.param_groups for one in group["params"]} for part in made.parts)
    names = {id(parameter): name for name, parameter in owl.named_parameters() if parameter.requires_grad}
    assert rest | matrices == names.keys()
    assert not rest & matrices
    by_muon = {names[one] for one in matrices}
    assert "model.abstractor.visual_fc.weight" in by_muon
    assert not any(
        "lora" in name or "embed" in name or "norm" in name or "bias" in name or "query_tokens" in name for name in by_muon
    )
    assert [type(part).__name__ for part in made.parts] == ["AdamW", "Muon"]


def test_what_muon_and_adamw_remember_comes_back() -> None:
    """The rate is set on the groups of both, before and after a checkpoint."""

    def stepped(made: torch.optim.Optimizer, owl: torch.nn.Module, seed: int) -> list[torch.Tensor]:
        draws = torch.Generator().manual_seed(seed)
        for parameter in owl.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draws)
        set_learning_rate(made, 0.01 * seed)
        made.step()
        return [parameter.detach().clone() for parameter in owl.parameters()]

    owls = [tiny_owl(tiny_config()) for _ in range(2)]
    first, second = (make_optimizer(owl, replace(SETTINGS, muon=True)) for owl in owls)
    stepped(first, owls[0], 1)
    owls[1].load_state_dict(owls[0].state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    for one, other in zip(stepped(first, owls[0], 2), stepped(second, owls[1], 2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("max_norm", "left"), [(1.0, 1.0), (2.5, 2.5), (10.0, 5.0), (None, 5.0)])
def test_gradients_are_scaled_down_to_a_norm_and_never_up(max_norm: float | None, left: float) -> None:
    """A 3-4-5 triangle over two weights."""
    model = torch.nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert clip_gradients(model, max_norm) == pytest.approx(5.0)
    assert model.weight.grad.item() == pytest.approx(3.0 * left / 5, rel=1e-5)
    assert model.bias.grad.item() == pytest.approx(4.0 * left / 5, rel=1e-5)


def test_muon_together_is_torchs_muon_one_by_one() -> None:
    """Shapes that are alike, alike when turned, and alone. Torch's state goes on with ours; worst measured 0.0."""
    shapes = [(6, 6), (12, 6), (6, 12), (6, 6), (5, 3)]
    torch.manual_seed(0)
    theirs = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    ours = [torch.nn.Parameter(weight.detach().clone()) for weight in theirs]
    started = [weight.detach().clone() for weight in theirs]
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    torchs, made = torch.optim.Muon(theirs, **settings), Muon(ours, **settings)
    for number in range(4):
        for one, other in zip(theirs, ours, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        torchs.step()
        made.step()
        if number == 1:
            made.load_state_dict(deepcopy(torchs.state_dict()))
    for one, other, start in zip(theirs, ours, started, strict=True):
        assert (one - other).norm() < 0.01 * (one - start).norm()  # bf16, whose sums may have another order
