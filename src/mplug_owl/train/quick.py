"""What a run computes otherwise than the model alone, for speed on a CPU: the same to rounding, and only while it trains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from mplug_owl.model.norms import use_quick_norms
from mplug_owl.model.row_attention import use_row_attention
from mplug_owl.train.merged_lora import merge_in_passes


@contextmanager
def quick_passes(learner: nn.Module, language_model: PreTrainedModel) -> Iterator[None]:
    """Norms, attention and LoRA in fewer passes over memory; afterwards every layer is its own again.

    So the model that a run leaves in memory gives the same bits as the one that it saved.
    """
    attention = language_model.config._attn_implementation
    changed = [*use_quick_norms(language_model), *merge_in_passes(learner)]
    use_row_attention(language_model)
    try:
        yield
    finally:
        for layer in changed:
            vars(layer).pop("forward", None)
        if language_model.config._attn_implementation != attention:
            language_model.set_attn_implementation(attention)
