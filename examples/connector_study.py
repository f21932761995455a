"""A connector of one's own in a study, against the abstractor: owl ablate examples/connector_study.py:study."""

from dataclasses import replace

import torch
from torch import nn

from mplug_owl import MplugOwlConfig
from mplug_owl.experiments.studies import instruct, pretrain
from mplug_owl.experiments.study import Arm, Study
from mplug_owl.model.connectors import add_connector
from mplug_owl.recipes.tiny import owl_tiny


class Average(nn.Module):
    """The average of a picture's vision tokens, in four language positions."""

    num_tokens = 4

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.vision_config.hidden_size, 4 * config.text_config.hidden_size)

    def forward(self, patches_IPD: torch.Tensor) -> torch.Tensor:
        return self.project(patches_IPD.mean(1)).unflatten(-1, (4, -1))


add_connector("average", Average)


def sizes() -> MplugOwlConfig:
    """owl-tiny's, with this connector."""
    return MplugOwlConfig.from_dict({**owl_tiny().to_dict(), "visual_abstractor_config": {"connector": "average"}})


def study() -> Study:
    """Both stages of the paper, with either connector."""
    stages = (pretrain(), instruct())
    mine = tuple(replace(stage, modules=replace(stage.modules, config=sizes)) for stage in stages)
    arms = (Arm("average", "a picture's average", mine), Arm("abstractor", "the paper's", stages))
    return Study("average", "Is a picture more than its average?", arms, questions=10, conditions=("with the picture",))
