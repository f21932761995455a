"""The connectors to compare the abstractor with; test_swap puts each between every two modules."""

import pytest
import torch

from mplug_owl import MplugOwlConfig
from mplug_owl.model.connectors import CONNECTORS, build_connector, num_image_tokens
from tests.tiny import tiny_config, tiny_owl

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
