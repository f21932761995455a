"""Text alone learned from the language model as it was: its own distribution in place of the words of an answer.

Learning without forgetting (arXiv 1606.09282): what the model said before is the target, so that learning to see costs none of
its language. At every supervised position of a conversation without pictures the loss is the Kullback-Leibler divergence of the
model with LoRA from the model without it. It is 0 until something has changed, and it compares the whole vocabulary where an
answer's words are one draw each.

Shapes: B batch, T text positions, R supervised rows, E language width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from peft import PeftModel
from torch import Tensor, nn

from mplug_owl.data.loader import MULTIPLE, Batch
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

AT_ONCE = 2**23  # logits of each model at once, 32 MB of fp32


@dataclass(frozen=True)
class Distilled:
    """A forward pass of conversations without pictures, and the hidden states [R, E] of the model without LoRA in it."""

    batch: Batch
    states: Tensor


def part_text(batches: Sequence[Batch], image_token_id: int) -> tuple[list[Batch], list[Batch]]:
    """Padded forward passes with pictures, and those of text alone. A pass that has both is parted by its rows."""
    pictured, text = list[Batch](), list[Batch]()
    for batch in batches:
        has_picture_B = batch.input_ids.eq(image_token_id).any(1)
        if has_picture_B.any():
            pictured.append(_rows(batch, has_picture_B, batch.pixel_values))
        if not has_picture_B.all():
            text.append(_rows(batch, ~has_picture_B, None))
    return pictured, text


def without_lora(
    learner: PeftModel, model: MplugOwlForConditionalGeneration, batches: Sequence[Batch], precision: str
) -> list[Distilled]:
    """What `model`, which `learner` holds, says to these passes without LoRA, each on the device of the weights."""
    remembered = []
    with torch.no_grad(), learner.disable_adapter():
        for batch in (one.to(model.device) for one in batches):
            remembered.append(Distilled(batch, _supervised_states(model, batch, precision)))
    return remembered


def distillation_loss(
    model: MplugOwlForConditionalGeneration, distilled: Distilled, supervised: Tensor, precision: str
) -> Tensor:
    """A pass's share of the step's loss: the divergence at its supervised tokens, by their weights, over `supervised`."""
    states_RE = _supervised_states(model, distilled.batch, precision)
    weights_BT = distilled.batch.loss_weights
    weights_R = None if weights_BT is None else weights_BT[:, 1:][distilled.batch.labels[:, 1:].ne(-100)]
    with torch.autocast(states_RE.device.type, torch.bfloat16, enabled=precision == "bf16"):
        summed = summed_divergence(model.logits, distilled.states, states_RE, weights_R, model.config.text_config.vocab_size)
    return summed / supervised.clamp(min=1)


def summed_divergence(
    head: Callable[[Tensor], Tensor], before_RE: Tensor, now_RE: Tensor, weights_R: Tensor | None, vocabulary: int
) -> Tensor:
    """KL(before || now) of the next token, summed over rows by their weights (one where None), in fp32, a few at a time."""
    size, summed = max(1, AT_ONCE // vocabulary), now_RE.new_zeros((), dtype=torch.float32)
    for first in range(0, len(now_RE), size):
        few = slice(first, first + size)
        with torch.no_grad():
            before_RV = head(before_RE[few]).float().log_softmax(1)
        now_RV = head(now_RE[few]).float().log_softmax(1)
        rows_R = nn.functional.kl_div(now_RV, before_RV, reduction="none", log_target=True).sum(1)
        summed = summed + (rows_R if weights_R is None else rows_R * weights_R[few]).sum()
    return summed


def _supervised_states(model: MplugOwlForConditionalGeneration, batch: Batch, precision: str) -> Tensor:
    """Last hidden states [R, E] from which the supervised tokens are predicted."""
    with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
        states_BTE = model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
    return states_BTE[:, :-1][batch.labels[:, 1:].ne(-100)]


def _rows(batch: Batch, wanted_B: Tensor, pixel_values: Tensor | None) -> Batch:
    """Some rows of a padded batch, no longer than they need."""
    if batch.attention_mask is None:
        raise ValueError("packed rows cannot be parted: a recipe that distils does not pack")
    longest = int(batch.attention_mask[wanted_B].sum(1).max())
    length = min(-(-longest // MULTIPLE) * MULTIPLE, batch.input_ids.shape[1])
    return replace(
        batch,
        input_ids=batch.input_ids[wanted_B, :length],
        labels=batch.labels[wanted_B, :length],
        attention_mask=batch.attention_mask[wanted_B, :length],
        pixel_values=pixel_values,
        loss_weights=None if batch.loss_weights is None else batch.loss_weights[wanted_B, :length],
    )
