"""f_K, the visual abstractor: a few learned queries attend to a picture and become language positions.

Shapes: I images, P vision tokens, Q queries, S = Q + P, D abstractor width, E language width, H heads, K head width.
"""

from typing import Unpack

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import TransformersKwargs

from mplug_owl.errors import UserError
from mplug_owl.model.attention import attend
from mplug_owl.model.config import MplugOwlConfig

# The released abstractor's norms have torch's default; only the MLP's inner norm reads layer_norm_eps.
NORM_EPS = 1e-5


class VisualAbstractor(nn.Module):
    """A picture in Q + 1 language positions, `num_tokens`: 65 in the released models, of 64 queries.

    The queries attend to the picture layer by layer, `visual_fc` brings them to language width, and a learned end vector,
    `vit_eos`, follows. Weights have the names that the released files have.

    Args:
        config: An owl's; its `visual_abstractor_config` says the sizes and `num_query_tokens` is Q.

    Raises:
        UserError: The abstractor's width is not the vision encoder's.

    Example:
        >>> import torch
        >>> from mplug_owl import MplugOwlConfig, VisualAbstractor
        >>> small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> config = MplugOwlConfig(vision_config=small, text_config=small, visual_abstractor_config=small)
        >>> abstractor = VisualAbstractor(config)
        >>> abstractor(torch.zeros(2, 257, 32)).shape  # two pictures of 257 vision tokens
        torch.Size([2, 65, 32])
    """

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        abstractor_config = config.visual_abstractor_config
        if abstractor_config.encoder_hidden_size != abstractor_config.hidden_size:
            raise UserError(
                f"visual_abstractor_config: hidden_size {abstractor_config.hidden_size} must equal the vision encoder's "
                f"{abstractor_config.encoder_hidden_size}; the abstractor attends to queries and patches side by side"
            )
        self.num_tokens = config.num_query_tokens + 1
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_query_tokens, abstractor_config.hidden_size))
        self.layers = nn.ModuleList(AbstractorLayer(config) for _ in range(abstractor_config.num_hidden_layers))
        self.visual_fc = nn.Linear(abstractor_config.hidden_size, config.text_config.hidden_size)
        self.vit_eos = nn.Parameter(torch.empty(1, 1, config.text_config.hidden_size))

    def forward(self, patches_IPD: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        """Vision tokens [I, P, D] to language positions [I, Q + 1, E]."""
        queries_IQD = self.query_tokens.expand(len(patches_IPD), -1, -1).to(patches_IPD.dtype)
        for layer in self.layers:
            queries_IQD = layer(queries_IQD, patches_IPD, **kwargs)
        visual_IQE = self.visual_fc(queries_IQD)
        return torch.cat([visual_IQE, self.vit_eos.expand(len(visual_IQE), -1, -1).to(visual_IQE.dtype)], dim=1)

    def init_queries(self, std: float) -> None:
        """Random queries: the original's start as zeros, and queries that are all alike stay alike."""
        init.normal_(self.query_tokens, std=std)
        init.normal_(self.vit_eos, std=std)


class AbstractorLayer(GradientCheckpointingLayer):
    """One layer, for queries q and a picture's vision tokens x:

    q = norm1(q)
    q = q + attention(q, [q, normk(x)])
    q = q + mlp(norm2(q))
    """

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        abstractor_config = config.visual_abstractor_config
        width = abstractor_config.hidden_size
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.normk = nn.LayerNorm(width, NORM_EPS)
        self.attention = AbstractorAttention(config)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = SwiGLU(width, abstractor_config.intermediate_size, abstractor_config.layer_norm_eps)

    def forward(self, queries_IQD: Tensor, patches_IPD: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        queries_IQD = self.norm1(queries_IQD)
        seen_ISD = torch.cat([queries_IQD, self.normk(patches_IPD)], dim=1)
        # Residual from the normalised queries: the released weights were trained this way.
        queries_IQD = queries_IQD + self.attention(queries_IQD, seen_ISD, **kwargs)
        return queries_IQD + self.mlp(self.norm2(queries_IQD))


class AbstractorAttention(nn.Module):
    """Multi-head attention of queries [I, Q, D] to what they see [I, S, D]."""

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        abstractor_config = config.visual_abstractor_config
        width = abstractor_config.hidden_size
        self.config = config  # the owl's: it names the attention implementation
        self.dropout = abstractor_config.attention_probs_dropout_prob
        self.heads = abstractor_config.num_attention_heads
        self.is_causal = False
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries_IQD: Tensor, seen_ISD: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor:
        query_IHQK, key_IHSK, value_IHSK = (
            states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for states in (self.query(queries_IQD), self.key(seen_ISD), self.value(seen_ISD))
        )
        mixed_IQD, _ = attend(self, self.config, query_IHQK, key_IHSK, value_IHSK, self.dropout, **kwargs)
        return self.out_proj(mixed_IQD)


class SwiGLU(nn.Module):
    """w2(norm(silu(w1 x) * w3 x)), with biases and a norm inside."""

    def __init__(self, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner)
        self.w2 = nn.Linear(inner, width)
        self.w3 = nn.Linear(width, inner)
        self.ffn_ln = nn.LayerNorm(inner, eps)
        self.activation = ACT2FN["silu"]

    def forward(self, states_IQD: Tensor) -> Tensor:
        return self.w2(self.ffn_ln(self.activation(self.w1(states_IQD)) * self.w3(states_IQD)))
