"""What transformers has to know of every owl: how it loads, saves and is initialised, and what its forward passes return."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput

from mplug_owl.model import checkpoints
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.vision import MplugOwlVisionModel


@dataclass
class MplugOwlModelOutputWithPast(BaseModelOutputWithPast):
    """Hidden states of the language model, and the pictures' positions [I, N, E] that went into it."""

    image_hidden_states: Tensor | None = None


@dataclass
class MplugOwlCausalLMOutputWithPast(ModelOutput):
    """Logits [B, T, V], or [rows, V] where only supervised rows were asked for, and the loss when labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None


class MplugOwlPreTrainedModel(PreTrainedModel):
    """What transformers has to know of every owl."""

    config: MplugOwlConfig
    config_class = MplugOwlConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["AbstractorLayer", "QFormerLayer", "ResamplerLayer", *MplugOwlVisionModel._no_split_modules]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # Rotary tables that old checkpoints carry; they are computed, not learned. The head is not named here: engines that load
    # by the base model alone read this list too, and would drop it.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if callable(init_queries := getattr(module, "init_queries", None)):
            init_queries(self.config.visual_abstractor_config.initializer_range)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As transformers' own; `image_token_id` moves on where the larger table now holds it.

        A processor's own id moves with the tokens that its tokenizer is given, to the same one.
        """
        table = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.config.image_token_id = max(self.config.image_token_id, self.config.text_config.vocab_size)
        return table

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: object, **kwargs: object
    ) -> Self:
        """Load an original checkpoint or one of ours; the layout is recognised by its names.

        As transformers' own, but a missing, unexpected or misshapen weight is an error: a module that is silently
        initialised anew is worse than none.

        Args:
            pretrained_model_name_or_path: A folder or a hub id; `mplug_owl.load` knows more names.
            model_args: As transformers' own.
            kwargs: As transformers' own. `weights_only=False` is refused, for it runs code from the weight file.

        Raises:
            UserError: The folder holds another model, a damaged file, or not the weights of its config; it names them.
        """
        return checkpoints.load(cls, super().from_pretrained, pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: object, save_original_format: bool = False, **kwargs: object
    ) -> None:
        """As transformers' own, in our layout, which every tool reads; `owl convert --original` writes the original's."""
        save: Callable[..., None] = super().save_pretrained
        save(save_directory, *args, save_original_format=save_original_format, **kwargs)
