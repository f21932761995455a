"""The connectors to compare the abstractor with; test_swap puts each between every two modules."""

import re

import pytest
import torch
from torch.nn.functional import gelu
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration
from mplug_owl.model.connectors import CONNECTORS, build_connector, num_image_tokens
from tests.model.equations import assert_same, attention, norm, quiet
from tests.tiny import tiny_config, tiny_owl

# (our Q-Former's name, BLIP-2's), applied in this order.
BLIP2 = (
    (r"^norm\.", "layernorm."),
    (r"^layers\.", "encoder.layer."),
    (r"\.own_norm\.", ".attention.output.LayerNorm."),
    (r"\.cross_norm\.", ".crossattention.output.LayerNorm."),
    (r"\.own\.out_proj\.", ".attention.output.dense."),
    (r"\.cross\.out_proj\.", ".crossattention.output.dense."),
    (r"\.own\.", ".attention.attention."),
    (r"\.cross\.", ".crossattention.attention."),
    (r"\.mlp_norm\.", ".output_query.LayerNorm."),
    (r"\.mlp\.0\.", ".intermediate_query.dense."),
    (r"\.mlp\.2\.", ".output_query.dense."),
)


def blip2_name(ours: str) -> str:
    for pattern, theirs in BLIP2:
        ours = re.sub(pattern, theirs, ours)
    return ours


# What a picture of 5 vision tokens takes with 4 queries.
POSITIONS = {"abstractor": 5, "linear": 5, "mlp": 5, "qformer": 4, "resampler": 4}
# From 1024 to 4096 wide, six layers, 64 queries. The abstractor's is the original's; the others were counted here, so that a
# change does not go unseen: linear is 1024 * 4096 + 4096, mlp that and 4096 * 4096 + 4096.
SIZES = {"abstractor": 81_473_536, "linear": 4_198_400, "mlp": 20_979_712, "qformer": 76_708_352, "resampler": 65_168_896}


def test_these_are_all() -> None:
    assert CONNECTORS.keys() == POSITIONS.keys()


@pytest.mark.parametrize("connector", POSITIONS)
def test_a_picture_takes_as_many_positions_as_it_says(connector: str) -> None:
    config = tiny_config(connector=connector)
    module = tiny_owl(config).model.abstractor
    said = module(torch.randn(3, 5, config.vision_config.hidden_size))
    assert said.shape == (3, POSITIONS[connector], config.text_config.hidden_size)
    assert num_image_tokens(config) == module.num_tokens == POSITIONS[connector]


@pytest.mark.parametrize("connector", SIZES)
def test_sizes_at_the_papers_scale(connector: str) -> None:
    with torch.device("meta"):
        module = build_connector(MplugOwlConfig(visual_abstractor_config={"connector": connector}))
    assert sum(weight.numel() for weight in module.parameters()) == SIZES[connector]


@pytest.mark.parametrize("connector", POSITIONS)
def test_a_picture_is_said_alike_alone_and_among_others(connector: str) -> None:
    module = tiny_owl(tiny_config(connector=connector)).model.abstractor
    patches = torch.randn(3, 5, 16)
    torch.testing.assert_close(module(patches)[1:2], module(patches[1:2]))


@pytest.mark.parametrize("connector", ["qformer", "resampler"])
def test_these_may_be_narrower_than_the_vision_encoder(connector: str) -> None:
    config = tiny_config(connector=connector)
    config.visual_abstractor_config.hidden_size = 8
    assert build_connector(config).query_tokens.shape == (1, 4, 8)
    assert tiny_owl(config).model.abstractor(torch.randn(1, 5, 16)).shape == (1, 4, 24)


@pytest.mark.parametrize("connector", ["qformer", "resampler"])
def test_fresh_queries_are_random_and_all_different(connector: str) -> None:
    torch.manual_seed(0)
    config = tiny_config(connector=connector, num_query_tokens=16)
    config.visual_abstractor_config.initializer_range = 0.05
    queries = MplugOwlForConditionalGeneration(config).model.abstractor.query_tokens[0]
    assert torch.pdist(queries).min() > 0.05
    assert queries.std().item() == pytest.approx(0.05, rel=0.2)


# A connector is its equation


@torch.no_grad()
def test_the_linear_one_and_the_mlp() -> None:
    linear, mlp = (tiny_owl(tiny_config(connector=name)).model.abstractor.double() for name in ("linear", "mlp"))
    patches = 100 * quiet(2, 5, 16)
    assert_same(linear(patches), patches @ linear.project.weight.T + linear.project.bias)
    first, _, second = mlp.project
    hidden = patches @ first.weight.T + first.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # GELU
    assert_same(mlp(patches), hidden @ second.weight.T + second.bias)


@torch.no_grad()
def test_the_resampler() -> None:
    """Latents attend to patches and latents, both normed; the residual takes the latents as they are."""
    resampler = tiny_owl(tiny_config(connector="resampler")).model.abstractor.double()
    patches = quiet(2, 5, 16)
    latents, entered = resampler.query_tokens.expand(2, 4, 16), resampler.enter(patches)
    for layer in resampler.layers:
        asking = norm(layer.query_norm, latents)
        seen = torch.cat([norm(layer.patch_norm, entered), asking], dim=1)
        mix = layer.attention
        latents = latents + mix.out_proj(attention(mix.query(asking), mix.key(seen), mix.value(seen), heads=2))
        before, inner, _, outer = layer.mlp
        latents = latents + outer(gelu(inner(norm(before, latents))))
    assert_same(resampler(patches), resampler.project(norm(resampler.norm, latents)))


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_qformer_is_transformers_own(layers: int) -> None:
    """BLIP-2's, its norms' eps aside: there it is 1e-12, here torch's default."""
    config = tiny_config(connector="qformer")
    config.visual_abstractor_config.num_hidden_layers = layers
    ours = tiny_owl(config).model.abstractor.double()
    theirs = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=16,
            encoder_hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            layer_norm_eps=1e-5,
            use_qformer_text_input=False,
        )
    )
    weights = ours.state_dict()
    inside = {blip2_name(name): weights[name] for name in weights if not name.startswith(("query_tokens", "project."))}
    theirs.double().eval().load_state_dict(inside)
    patches = 100 * quiet(2, 5, 16)
    seen = theirs(ours.query_tokens.expand(2, 4, 16), encoder_hidden_states=patches).last_hidden_state
    assert_same(ours(patches), ours.project(seen))
