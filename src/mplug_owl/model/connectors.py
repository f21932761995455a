"""The other connectors between vision and language, to swap in and compare: linear, mlp, qformer, resampler.

A connector is a module that maps vision tokens [I, P, D] to language positions [I, N, E] and knows N as `num_tokens`.
One of your own: subclass `MplugOwlForConditionalGeneration` and override `build_connector`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import initialization as init

from mplug_owl.model.abstractor import VisualAbstractor
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.towers import vision_tokens


def build_connector(config: MplugOwlConfig) -> nn.Module:
    """The connector that the config names, freshly initialised."""
    return CONNECTORS[config.visual_abstractor_config.connector](config)


class Linear(nn.Module):
    """LLaVA's first connector: every vision token becomes one language position."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        self.num_tokens = vision_tokens(config.vision_config)
        self.project = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)

    def forward(self, patches_IPD: Tensor, **kwargs: object) -> Tensor:
        return self.project(patches_IPD)


class MLP(nn.Module):
    """LLaVA-1.5's connector: two linears around a GELU, token by token."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.num_tokens = vision_tokens(config.vision_config)
        self.project = nn.Sequential(nn.Linear(config.vision_config.hidden_size, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, patches_IPD: Tensor, **kwargs: object) -> Tensor:
        return self.project(patches_IPD)


class QFormer(nn.Module):
    """BLIP-2's connector: queries attend to one another, then across to the picture in every second layer."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        connector_config = config.visual_abstractor_config
        self.num_tokens = config.num_query_tokens
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_query_tokens, connector_config.hidden_size))
        self.norm = nn.LayerNorm(connector_config.hidden_size)
        self.layers = nn.ModuleList(QFormerLayer(config, sees=i % 2 == 0) for i in range(connector_config.num_hidden_layers))
        self.project = nn.Linear(connector_config.hidden_size, config.text_config.hidden_size)

    def forward(self, patches_IPD: Tensor, **kwargs: object) -> Tensor:
        queries_IQD = self.norm(self.query_tokens).expand(len(patches_IPD), -1, -1)
        for layer in self.layers:
            queries_IQD = layer(queries_IQD, patches_IPD)
        return self.project(queries_IQD)

    def init_queries(self, std: float) -> None:
        """Random queries, so that each can learn something different."""
        init.normal_(self.query_tokens, std=std)


class QFormerLayer(nn.Module):
    """A post-norm BERT layer, with a cross-attention between its halves where it `sees`."""

    def __init__(self, config: MplugOwlConfig, sees: bool) -> None:
        super().__init__()
        connector_config = config.visual_abstractor_config
        vision, heads = config.vision_config.hidden_size, connector_config.num_attention_heads
        # `own`: attention of the queries to themselves. Saved weights have this name.
        self.own = Attention(connector_config.hidden_size, connector_config.hidden_size, heads)
        self.own_norm = nn.LayerNorm(connector_config.hidden_size)
        self.cross = Attention(connector_config.hidden_size, vision, heads) if sees else None
        self.cross_norm = nn.LayerNorm(connector_config.hidden_size) if sees else None
        self.mlp = nn.Sequential(
            nn.Linear(connector_config.hidden_size, connector_config.intermediate_size),
            nn.GELU(),
            nn.Linear(connector_config.intermediate_size, connector_config.hidden_size),
        )
        self.mlp_norm = nn.LayerNorm(connector_config.hidden_size)

    def forward(self, queries_IQD: Tensor, patches_IPD: Tensor) -> Tensor:
        queries_IQD = self.self_attend(queries_IQD)
        if self.cross is not None and self.cross_norm is not None:
            queries_IQD = self.cross_norm(queries_IQD + self.cross(queries_IQD, patches_IPD))
        return self.mlp_norm(queries_IQD + self.mlp(queries_IQD))

    def self_attend(self, states_IAD: Tensor, mask_I1AA: Tensor | None = None) -> Tensor:
        """The layer's first half: states attend to one another, those that the mask lets them see."""
        return self.own_norm(states_IAD + self.own(states_IAD, states_IAD, mask_I1AA))


class Resampler(nn.Module):
    """Flamingo's connector: latents attend to the picture and themselves, pre-norm, the residual left as it is."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        connector_config = config.visual_abstractor_config
        self.num_tokens = config.num_query_tokens
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_query_tokens, connector_config.hidden_size))
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(connector_config.num_hidden_layers))
        self.norm = nn.LayerNorm(connector_config.hidden_size)
        self.project = nn.Linear(connector_config.hidden_size, config.text_config.hidden_size)
        self.enter = nn.Linear(config.vision_config.hidden_size, connector_config.hidden_size)

    def forward(self, patches_IPD: Tensor, **kwargs: object) -> Tensor:
        queries_IQD = self.query_tokens.expand(len(patches_IPD), -1, -1)
        patches_IPD = self.enter(patches_IPD)
        for layer in self.layers:
            queries_IQD = layer(queries_IQD, patches_IPD)
        return self.project(self.norm(queries_IQD))

    def init_queries(self, std: float) -> None:
        """Random queries, so that each can learn something different."""
        init.normal_(self.query_tokens, std=std)


class ResamplerLayer(nn.Module):
    """Attention to [picture, latents] and an MLP, each after a norm and added to its input."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        connector_config = config.visual_abstractor_config
        width = connector_config.hidden_size
        self.query_norm = nn.LayerNorm(width)
        self.patch_norm = nn.LayerNorm(width)
        self.attention = Attention(width, width, connector_config.num_attention_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, connector_config.intermediate_size),
            nn.GELU(),
            nn.Linear(connector_config.intermediate_size, width),
        )

    def forward(self, queries_IQD: Tensor, patches_IPD: Tensor) -> Tensor:
        normed_IQD = self.query_norm(queries_IQD)
        seen_ISD = torch.cat([self.patch_norm(patches_IPD), normed_IQD], dim=1)
        queries_IQD = queries_IQD + self.attention(normed_IQD, seen_ISD)
        return queries_IQD + self.mlp(queries_IQD)


class Attention(nn.Module):
    """Multi-head attention of `width` wide queries to `seen` wide keys."""

    def __init__(self, width: int, seen: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(seen, width)
        self.value = nn.Linear(seen, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries_IQD: Tensor, seen_ISD: Tensor, mask_I1QS: Tensor | None = None) -> Tensor:
        """The mix [I, Q, width]. A mask is true where a query may look; None lets it look everywhere."""
        query, key, value = (
            states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for states in (self.query(queries_IQD), self.key(seen_ISD), self.value(seen_ISD))
        )
        mixed_IHQK = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_I1QS)
        return self.out_proj(mixed_IHQK.transpose(1, 2).flatten(2))


CONNECTORS: dict[str, Callable[[MplugOwlConfig], nn.Module]] = {
    "abstractor": VisualAbstractor,
    "linear": Linear,
    "mlp": MLP,
    "qformer": QFormer,
    "resampler": Resampler,
}


def num_image_tokens(config: MplugOwlConfig) -> int:
    """N, how many language positions a picture takes in an owl of this config."""
    connector = config.visual_abstractor_config.connector
    if connector in ("linear", "mlp"):
        return vision_tokens(config.vision_config)
    return config.num_query_tokens + (connector == "abstractor")
