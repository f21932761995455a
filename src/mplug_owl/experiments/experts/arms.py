"""Systematic collaboration as arms of a study: the three policies, and nothing that learns beyond the captioner's stage 1."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mplug_owl.chat import ChatModel, OwlChatModel, find, load
from mplug_owl.experiments.experts.drawn import SceneDetector
from mplug_owl.experiments.experts.expert import Asked, Expert
from mplug_owl.experiments.experts.model import ExpertsChatModel
from mplug_owl.experiments.experts.spec import POLICIES
from mplug_owl.experiments.study import Arm
from mplug_owl.train.recipe import Recipe

LANGUAGE = "tiny-language"
WORDS = {
    "visual-chatgpt": "tools in a chain (arXiv 2303.04671)",
    "mm-react": "a dialogue of thought and action (arXiv 2303.11381)",
    "hugginggpt": "a plan with dependencies first (arXiv 2303.17580)",
}


def collaborating(captioner: Recipe) -> tuple[Arm, ...]:
    """An arm for each policy.

    The owl after the stage `captioner` describes, a program detects, a program plans by rules, and `tiny-language`, which has
    read about the drawn world and seen nothing of it, answers from the bare findings.
    """
    made: dict[str, Callable[[Path | None], ChatModel]] = {name: partial(_answers, name) for name in POLICIES}
    return tuple(Arm(name, WORDS[name], (captioner,), answers) for name, answers in made.items())


def _answers(policy: str, folder: Path | None) -> ChatModel:
    """The policy with the captioner of a stage's folder."""
    if folder is None:
        raise ValueError("an arm of experts has the captioner's stage")
    experts: list[Expert] = [Asked(OwlChatModel(load(folder))), SceneDetector()]
    return ExpertsChatModel(POLICIES[policy](wording="facts"), experts, find(f"language:{LANGUAGE}"), batch_size=32)
