"""What a run computes otherwise than the model alone, for speed on a CPU: the same to rounding, and only while it trains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mplug_owl.model.attention_cpu import use_cpu_attention
from mplug_owl.model.norms import use_quick_norms
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.rotary import use_quick_rotary
from mplug_owl.model.short_convolution import use_quick_convolutions
from mplug_owl.train.merged_lora import merge_in_passes


@contextmanager
def quick_passes(
    learner: nn.Module, model: MplugOwlForConditionalGeneration, attention: str | None = None, sharded: bool = False
) -> Iterator[list[nn.Module]]:
    """Attention, norms, positions, convolutions and LoRA in fewer passes over memory; afterwards every layer is its own again.

    So the model that a run leaves in memory gives the same bits as the one that it saved. `attention` is what the recipe says:
    who asks for sdpa gets it. Layers whose weights are `sharded` keep their forward pass. Yields the layers
    whose linear layers are called as ever, which `HalfWeights` wants to know.
    """
    language_model = model.model.language_model
    changed = [*use_quick_norms(language_model), *merge_in_passes(learner)] if not sharded else []
    calling = [*use_quick_rotary(language_model), *use_quick_convolutions(language_model)] if not sharded else []
    attentions = [] if attention == "sdpa" else use_cpu_attention(model)
    try:
        yield calling
    finally:
        for layer in [*changed, *calling]:
            vars(layer).pop("forward", None)
        for config, chosen in attentions:
            config._attn_implementation = chosen
