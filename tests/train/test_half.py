"""Frozen weights in bf16 during a run in bf16: the same loss and gradients to the bit, and weights come back as they were."""

from dataclasses import replace

import torch
from torch import nn

from mplug_owl.recipes import tiny
from mplug_owl.train.half import HalfWeights
from mplug_owl.train.recipe import Trainable
from mplug_owl.train.trainable import prepare, set_mode
from tests.tiny import VOCABULARY, tiny_config, tiny_owl


def one_step(learner: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (2, 12))
    learner.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner(input_ids=ids, labels=ids, loss_only=True, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def test_a_step_has_the_same_bits_and_the_weights_come_back() -> None:
    for tie in (False, True):
        config = tiny_config()
        config.text_config.tie_word_embeddings = tie
        owl = tiny_owl(config)
        recipe = replace(tiny.pretrain(), trainable=Trainable("full", "full", "lora"), precision="bf16")
        learner = prepare(owl, recipe)
        set_mode(owl, recipe.trainable)
        weights = {name: p.detach().clone() for name, p in owl.named_parameters()}
        before = one_step(learner)
        with HalfWeights(learner):
            during = one_step(learner)
            halved = {name for name, p in owl.named_parameters() if p.dtype == torch.bfloat16}
        assert any("q_proj.base_layer" in name for name in halved)
        assert ("lm_head.weight" in halved) is not tie  # an embedding reads it as it is stored
        assert not any("norm" in name or "embed" in name or "lora" in name or "vision" in name for name in halved)
        torch.testing.assert_close(during, before, atol=0, rtol=0)
        for name, p in owl.named_parameters():
            assert p.dtype == torch.float32
            assert torch.equal(p, weights[name])


def test_what_bf16_holds_exactly_is_not_kept_twice() -> None:
    exact = nn.Linear(4, 4).requires_grad_(False)
    exact.weight.data = exact.weight.data.bfloat16().float()
    exact.bias.data.fill_(1 / 3)
    half = HalfWeights(exact)
    assert [before is None for _, before in half.kept] == [True, False]
    half.restore()
    assert exact.bias[0].item() == torch.tensor(1 / 3).item()
    assert not HalfWeights(exact, enabled=False).kept


def test_layers_that_another_forward_reads_stay() -> None:
    """A forward that was put on a module by hand may read its layers' weights in fp32."""
    outer = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))).requires_grad_(False)
    outer[0].forward = lambda states: states  # type: ignore[method-assign]
    with HalfWeights(outer):
        assert outer[0][0].weight.dtype == torch.float32
        assert outer[1][0].weight.dtype == torch.bfloat16
