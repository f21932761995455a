"""f_V, the vision encoder: a CLIP-like ViT that gives every token, the class token included.

Shapes: I images, S = P + 1 tokens (the class token first), D width, H heads, K head width.
"""

from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from mplug_owl.errors import UserError
from mplug_owl.model.activation import QuickGELU
from mplug_owl.model.attention import attend
from mplug_owl.model.config import MplugOwlVisionConfig


class VisionEmbeddings(nn.Module):
    """Patches by a convolution without bias, a class token in front, learned positions, one norm over the sum.

    A stem, where the config has one, looks at the pixels first: convolutions that each halve height and width.
    """

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        channels = (config.num_channels, *config.stem_channels)
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU())
                for before, after in pairwise(channels)
            )
        )
        side = config.patch_size >> len(config.stem_channels)
        self.patch_embed = nn.Conv2d(channels[-1], config.hidden_size, side, stride=side, bias=False)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, tokens, config.hidden_size))
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixels_ICHW: Tensor) -> Tensor:
        pixels_ICHW = pixels_ICHW.to(self.patch_embed.weight.dtype)
        if len(self.stem):  # in the order that kernels of small convolutions read
            pixels_ICHW = pixels_ICHW.contiguous(memory_format=torch.channels_last)
        seen_ICHW = self.stem(pixels_ICHW)
        patches_IPD = self.patch_embed(seen_ICHW).flatten(2).transpose(1, 2)
        tokens_ISD = torch.cat([self.cls_token.expand(len(patches_IPD), -1, -1), patches_IPD], dim=1)
        if tokens_ISD.shape[1] != self.position_embedding.shape[1]:
            height, width = pixels_ICHW.shape[-2:]
            raise UserError(
                f"picture of {height} x {width} pixels gives {tokens_ISD.shape[1]} tokens, but the vision encoder has "
                f"{self.position_embedding.shape[1]} positions; resize to its image_size"
            )
        return self.pre_layernorm(tokens_ISD + self.position_embedding)


class VisionAttention(nn.Module):
    """Self-attention with one fused projection.

    Its rows are laid out head by head, [q k v] of the first head, then of the second, as in the released weights; reading
    them by a view means that the original's tensors load as they are.
    """

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.heads = config.num_attention_heads
        self.is_causal = False
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens_ISD: Tensor, **kwargs: Unpack[TransformersKwargs]) -> tuple[Tensor, Tensor | None]:
        fused_ISHK = self.query_key_value(tokens_ISD).unflatten(-1, (self.heads, -1))
        query, key, value = fused_ISHK.transpose(1, 2).chunk(3, dim=-1)
        mixed_ISD, weights = attend(self, self.config, query, key, value, self.config.attention_dropout, **kwargs)
        return self.dense(mixed_ISD), weights


class VisionMLP(nn.Module):
    """Two linears around quick_gelu, the activation of every released checkpoint whatever its config says."""

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = QuickGELU()

    def forward(self, tokens_ISD: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(tokens_ISD)))


class VisionLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer."""

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, tokens_ISD: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        tokens_ISD = tokens_ISD + self.self_attn(self.input_layernorm(tokens_ISD), **kwargs)[0]
        return tokens_ISD + self.mlp(self.post_attention_layernorm(tokens_ISD))


class MplugOwlVisionModel(PreTrainedModel):
    """Pictures [I, 3, height, width] to `last_hidden_state` [I, S, D], normed at every token."""

    config: MplugOwlVisionConfig
    config_class = MplugOwlVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VisionEmbeddings", "VisionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": VisionLayer, "attentions": VisionAttention}

    def __init__(self, config: MplugOwlVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """transformers would look for its attention interface in this file; `attend` uses it, in another."""
        return True

    def get_input_embeddings(self) -> nn.Module:
        """The patch convolution."""
        return self.embeddings.patch_embed

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """`pooler_output` [I, D] is the class token, normed a second time as the original does; no language model sees it."""
        tokens_ISD = self.embeddings(pixel_values)
        for layer in self.layers:
            tokens_ISD = layer(tokens_ISD, **kwargs)
        tokens_ISD = self.post_layernorm(tokens_ISD)
        return BaseModelOutputWithPooling(last_hidden_state=tokens_ISD, pooler_output=self.post_layernorm(tokens_ISD[:, 0]))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisionEmbeddings):
            for layer in module.stem.modules():
                if isinstance(layer, nn.Conv2d):
                    init.kaiming_normal_(layer.weight, nonlinearity="relu")
            std = self.config.initializer_range
            init.normal_(module.cls_token, std=std)
            init.normal_(module.position_embedding, std=self.config.position_initializer_range or std)


AutoModel.register(MplugOwlVisionConfig, MplugOwlVisionModel)
