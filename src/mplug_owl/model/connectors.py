"""The other connectors between vision and language, to swap in and compare: linear, mlp, qformer, resampler.

A connector is a module that maps vision tokens [I, P, D] to language positions [I, N, E] and knows N as `num_tokens`.
One of your own: `add_connector` gives it a name for configs, so that recipes and studies can have it; or subclass
`MplugOwlForConditionalGeneration` and override `build_connector`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import initialization as init

from mplug_owl.errors import UserError
from mplug_owl.model.abstractor import VisualAbstractor
from mplug_owl.model.attention_cpu import CPU, cpu_attention
from mplug_owl.model.config import CONNECTOR_NAMES, MplugOwlConfig, vision_width
from mplug_owl.model.towers import vision_tokens


def build_connector(config: MplugOwlConfig) -> nn.Module:
    """The connector that the config names, freshly initialised."""
    return CONNECTORS[config.visual_abstractor_config.connector](config)


def add_connector(name: str, make: Callable[[MplugOwlConfig], nn.Module]) -> None:
    """A connector of one's own under a name that configs may have, in every process that has called this.

    A model that was trained with it opens where this was called before. Adding it again replaces it.

    Args:
        name: Another one than those of the project.
        make: Makes the module from an owl's config, freshly initialised; `config.visual_abstractor_config` has its sizes.

    Raises:
        UserError: The name is one of the project's.
    """
    if name in OURS:
        raise UserError(f"connector {name!r} is the project's; give yours another name than {', '.join(OURS)}")
    CONNECTORS[name] = make
    if name not in CONNECTOR_NAMES:
        CONNECTOR_NAMES.append(name)


class Linear(nn.Module):
    """LLaVA's first connector: every vision token becomes one language position."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        self.num_tokens = vision_tokens(config.vision_config)
        self.project = nn.Linear(vision_width(config.vision_config), config.text_config.hidden_size)

    def forward(self, patches_IPD: Tensor, **kwargs: object) -> Tensor:
        return self.project(patches_IPD)


class MLP(nn.Module):
    """LLaVA-1.5's connector: two linears around a GELU, token by token."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.num_tokens = vision_tokens(config.vision_config)
        self.project = nn.Sequential(nn.Linear(vision_width(config.vision_config), width), nn.GELU(), nn.Linear(width, width))

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
        vision = vision_width(config.vision_config)
        # `own`: attention of the queries to themselves. Saved weights have this name.
        self.own = Attention(config, connector_config.hidden_size)
        self.own_norm = nn.LayerNorm(connector_config.hidden_size)
        self.cross = Attention(config, vision) if sees else None
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
        self.enter = nn.Linear(vision_width(config.vision_config), connector_config.hidden_size)

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
        self.attention = Attention(config, width)
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
    """Multi-head attention of queries as wide as the connector to `seen` wide keys."""

    def __init__(self, config: MplugOwlConfig, seen: int) -> None:
        super().__init__()
        width, self.heads = config.visual_abstractor_config.hidden_size, config.visual_abstractor_config.num_attention_heads
        self.config = config  # the owl's: it names the attention implementation
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
        if self.config._attn_implementation == CPU:  # in a training step, for the fused kernel's backward pass is slow in bf16
            return self.out_proj(cpu_attention(self, query, key, value, mask_I1QS, is_causal=False)[0].flatten(2))
        mixed_IHQK = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_I1QS)
        return self.out_proj(mixed_IHQK.transpose(1, 2).flatten(2))


CONNECTORS: dict[str, Callable[[MplugOwlConfig], nn.Module]] = {
    "abstractor": VisualAbstractor,
    "linear": Linear,
    "mlp": MLP,
    "qformer": QFormer,
    "resampler": Resampler,
}
OURS = tuple(CONNECTORS)


def num_image_tokens(config: MplugOwlConfig) -> int:
    """N, how many language positions a picture takes in an owl of this config."""
    connector = config.visual_abstractor_config.connector
    if connector in ("linear", "mlp"):
        return vision_tokens(config.vision_config)
    if connector not in OURS:
        with torch.device("meta"):
            return int(getattr(build_connector(config), "num_tokens", 0))
    return config.num_query_tokens + (connector == "abstractor")
