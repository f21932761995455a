"""A stranger's connector in a study: the example of the documentation, and what a connector's own name may be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from mplug_owl.errors import UserError
from mplug_owl.experiments.ablation import ablate
from mplug_owl.experiments.study import find, scaled
from mplug_owl.model import config, connectors
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.connectors import add_connector, num_image_tokens
from mplug_owl.model.load import load
from tests.school import initial_model, lesson, lessons, quietly, small

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nobody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is gone after it."""
    monkeypatch.setattr(config, "CONNECTOR_NAMES", list(config.CONNECTOR_NAMES))
    monkeypatch.setattr(connectors, "CONNECTOR_NAMES", config.CONNECTOR_NAMES)
    monkeypatch.setattr(connectors, "CONNECTORS", dict(connectors.CONNECTORS))


class Average(nn.Module):
    """A picture's average, in two language positions."""

    num_tokens = 2

    def __init__(self, sizes: MplugOwlConfig) -> None:
        super().__init__()
        self.project = nn.Linear(sizes.vision_config.hidden_size, 2 * sizes.text_config.hidden_size)

    def forward(self, patches_IPD: torch.Tensor) -> torch.Tensor:
        return self.project(patches_IPD.mean(1)).unflatten(-1, (2, -1))


def averaging() -> MplugOwlConfig:
    return MplugOwlConfig.from_dict({**small().to_dict(), "visual_abstractor_config": {"connector": "average"}})


def test_a_connector_of_one_s_own_is_trained_and_opened_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"connector 'average': expected abstractor, .*or one that add_connector has named"):
        averaging()
    add_connector("average", Average)
    recipe, sources = lesson(modules=Modules(averaging, vocabulary=300), steps=1), lessons(tmp_path / "data")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    opened = load(tmp_path / "run")
    assert isinstance(opened.model.model.abstractor, Average)
    assert opened.model.num_image_tokens == num_image_tokens(opened.model.config) == 2


def test_the_project_s_own_names_are_taken() -> None:
    with pytest.raises(UserError, match="connector 'linear' is the project's; give yours another name"):
        add_connector("linear", Average)


@pytest.mark.slow
def test_the_documentation_s_study_runs(tmp_path: Path) -> None:
    study = replace(scaled(find(f"{ROOT}/examples/connector_study.py:study"), 0.001), questions=1)
    found = ablate(study, tmp_path, seeds=1, console=Console(quiet=True))
    assert [row.arm for row in found.rows] == ["average", "abstractor"]
    assert found.missing == 0
