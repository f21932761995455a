"""Cross entropy of the next token, summed: head and loss together, a few rows at a time, so that no large logits are kept.

Shapes: R supervised rows, E language width, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

# Logits at once: 32 MB of fp32 on a CPU, whose products are slower with fewer rows; enough for a full kernel on a GPU.
AT_ONCE = {"cpu": 2**23}
AT_ONCE_ELSEWHERE = 2**26


def summed_cross_entropy(head: nn.Linear, hidden_RE: Tensor, targets_R: Tensor, weights_R: Tensor | None) -> Tensor:
    """The loss of every row by its weight (one where None), summed: a number in fp32.

    The same as cross entropy of `head(hidden_RE)`. Gradients are computed on the way forward, while a few rows' logits are at
    hand: one pass through them in place of seven, and none of [R, V] in memory. In bf16 under autocast, as the head would be.
    """
    device = hidden_RE.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return cast(Tensor, _HeadLoss.apply(hidden_RE, head.weight, head.bias, targets_R, weights_R, half))


class _HeadLoss(torch.autograd.Function):
    """Loss forward with gradients beside it; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RE: Tensor,
        weight_VE: Tensor,
        bias_V: Tensor | None,
        targets_R: Tensor,
        weights_R: Tensor | None,
        half: torch.dtype | None,
    ) -> Tensor:
        """The loss, summed. Over 40 lines: a piece's logits are used for the loss and all gradients before the next piece."""
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden_RE.device.type, enabled=False):
            rows_RE, table_VE = (hidden_RE, weight_VE) if half is None else (hidden_RE.to(half), weight_VE.to(half))
            bias = None if bias_V is None else bias_V.to(table_VE.dtype)
            d_hidden = torch.empty_like(rows_RE) if wants_hidden else None
            d_weight = torch.zeros_like(weight_VE) if wants_weight else None
            d_bias = torch.zeros_like(bias_V) if wants_bias and bias_V is not None else None
            summed = torch.zeros((), device=rows_RE.device)
            size = max(1, AT_ONCE.get(rows_RE.device.type, AT_ONCE_ELSEWHERE) // len(table_VE))
            for first in range(0, len(rows_RE), size):
                few = slice(first, first + size)
                logits = nn.functional.linear(rows_RE[few], table_VE, bias).float()
                targets = targets_R[few, None]
                chosen, largest = logits.gather(1, targets), logits.amax(1, keepdim=True)
                sums = logits.sub_(largest).exp_().sum(1, keepdim=True)  # in place: logits are what a step's memory is full of
                losses = (sums.log() + largest - chosen)[:, 0]
                summed += losses.sum() if weights_R is None else (losses * weights_R[few]).sum()
                if not (wants_hidden or wants_weight or wants_bias):
                    continue
                share = 1 if weights_R is None else weights_R[few, None]
                d_logits = logits.mul_(share / sums)  # the softmax
                d_logits.scatter_add_(1, targets, torch.full_like(sums, -1.0) * share)
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
                d_logits = d_logits.to(table_VE.dtype)
                if d_hidden is not None:
                    torch.mm(d_logits, table_VE, out=d_hidden[few])
                if d_weight is not None:
                    d_weight += d_logits.t() @ rows_RE[few]
        ctx.gradients = d_hidden, d_weight, d_bias
        ctx.dtype = hidden_RE.dtype
        return summed

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = (None if one is None else one * given[0] for one in ctx.gradients)
        return None if d_hidden is None else d_hidden.to(ctx.dtype), d_weight, d_bias, None, None, None
