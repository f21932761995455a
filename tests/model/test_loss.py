"""Head and loss together: what cross entropy of the head's logits is, with its gradients, whatever fits into one piece."""

import pytest
import torch
from torch import nn

from mplug_owl.model import loss
from mplug_owl.model.loss import summed_cross_entropy
from tests.tiny import VOCABULARY, tiny_config, tiny_owl

ROWS, WIDTH, WORDS = 23, 8, 40


def plain(head: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    losses = nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    return losses.sum() if weights is None else (losses * weights).sum()


@pytest.mark.parametrize("pieces", [1, 7, ROWS])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradients_are_those_of_cross_entropy(
    pieces: int, weighed: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(loss.AT_ONCE, "cpu", WORDS * -(-ROWS // pieces))
    head, hidden = nn.Linear(WIDTH, WORDS, bias), torch.randn(ROWS, WIDTH, requires_grad=True)
    targets, weights = torch.randint(WORDS, (ROWS,)), torch.rand(ROWS) if weighed else None
    found = []
    for way in (summed_cross_entropy, plain):
        summed = way(head, hidden, targets, weights)
        found.append((summed, *torch.autograd.grad(summed / 3, [hidden, *head.parameters()])))
    torch.testing.assert_close(found[0], found[1], atol=2e-6, rtol=1e-6)  # worst measured 9.5e-7


def test_under_autocast_the_head_is_computed_in_bf16() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(WIDTH, WORDS, False), torch.randn(ROWS, WIDTH, requires_grad=True)
    targets = torch.randint(WORDS, (ROWS,))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = summed_cross_entropy(head, hidden, targets, None), plain(head, hidden, targets, None)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert ours.item() != pytest.approx(plain(head, hidden, targets, None).item(), rel=1e-6)
    got = torch.autograd.grad(ours, [hidden, head.weight])
    for one, other in zip(got, torch.autograd.grad(theirs, [hidden, head.weight]), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.01)  # bf16


def test_nothing_supervised_and_a_frozen_head_are_fine() -> None:
    head, hidden = nn.Linear(WIDTH, WORDS).requires_grad_(False), torch.randn(0, WIDTH, requires_grad=True)
    summed = summed_cross_entropy(head, hidden, torch.randint(WORDS, (0,)), None)
    assert summed.item() == 0
    summed.backward()
    assert hidden.grad is not None
    assert head.weight.grad is None
    with torch.no_grad():
        assert summed_cross_entropy(head, torch.randn(2, WIDTH), torch.tensor([1, 2]), None).item() > 0


@pytest.mark.parametrize("language", ["llama", "gemma3", "opt"])  # a plain head, a capped one, one that is tied
def test_an_owl_that_is_asked_for_its_loss_alone_learns_the_same(language: str) -> None:
    owl = tiny_owl(tiny_config(language=language))
    torch.manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (2, 9))
    found = []
    for loss_only in (True, False):
        owl.zero_grad()
        outputs = owl(input_ids=ids, labels=ids, loss_only=loss_only, num_items_in_batch=5)
        assert (outputs.logits is None) is loss_only
        outputs.loss.backward()
        found.append((outputs.loss.detach(), {name: p.grad for name, p in owl.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(*found, atol=2e-6, rtol=1e-5)
    assert owl.has_plain_head is (language != "gemma3")
