"""benchmarks/against.py at no size: the limit is what our count of FLOPs names, and the original is another process."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import against, baseline, limit
from benchmarks.baseline import PICTURE, STAGE_1, STAGE_2, Step
from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.train.flops import count_flops
from mplug_owl.train.trainable import prepare, table

STAND_IN = {
    "__init__.py": "",
    "configuration_mplug_owl.py": "class MplugOwlConfig:\n    def __init__(self, **sizes):\n        self.sizes = sizes\n",
    "modeling_mplug_owl.py": """
import types, torch
class MplugOwlForConditionalGeneration(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.vision_model, self.language_model = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    def forward(self, pixel_values, input_ids, labels, **masks):
        print("chatter")
        assert not self.language_model.weight.requires_grad and self.vision_model.weight.requires_grad
        return types.SimpleNamespace(loss=self.language_model(self.vision_model(pixel_values[:, :, 0, 0])).sum())
""",
}


@pytest.mark.parametrize(("step", "lora"), [(Step((128,) * 4, STAGE_1), False), (Step((512, 300), STAGE_2, packed=True), True)])
def test_the_limit_has_the_operations_that_we_count(step: Step, lora: bool) -> None:
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(baseline.owl_263m())
        learner = prepare(owl, baseline.recipe_of(step, "fp32"))
        parts = table(owl, step.trainable)
        with FlopCounterMode(display=False) as counter:
            limit.step_limit(step, "fp32")()
    assert learner is not None
    tokens, pictures = sum(step.lengths), len(step.lengths)
    expected = count_flops(baseline.owl_263m(), parts)(tokens, pictures)
    expected -= 2 * 2 * 768 * 32_000 * (tokens - step.rows)  # ours computes the head where something is supervised
    expected += 12 * 3 * sum(4 * 768 * length**2 for length in step.lengths)  # f_L's attention, which is left out there
    first = 2 * 3 * 768**2 * tokens if lora else 0  # queries, keys and values of the first layer need no way back
    assert counter.get_total_flops() == pytest.approx(expected - first, rel=0.01)


def test_lengths_are_those_of_real_captions_and_conversations() -> None:
    captions, talks = baseline.caption_lengths(4000), baseline.conversation_lengths(4000)
    words = [(length - 2 - PICTURE) / baseline.TOKENS_A_WORD for length in captions]
    assert sum(words) / len(words) == pytest.approx(10.3, abs=0.3)
    assert max(talks) == 512
    assert 300 < sum(talks) / len(talks) < 400
    inputs = baseline.inputs_of(Step(captions[:3], STAGE_1, packed=True))
    assert inputs["input_ids"].shape == (1, sum(captions[:3]))
    assert int((inputs["labels"][:, 1:] != -100).sum()) == Step(captions[:3], STAGE_1).rows
    assert inputs["position_ids"][0].eq(0).sum() == 3


def test_the_original_answers_from_its_own_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "mplug_owl"
    package.mkdir()
    for name, text in STAND_IN.items():
        (package / name).write_text(text)
    given = {"samples": 2, "tokens": 70, "lora": False}
    calls: list[str] = []
    section = against.Section(
        "a step", "step", given, lambda p: lambda: calls.append(p), lambda p: lambda: None, {"fp32": "limit x 2"}, (2, 4)
    )
    with against.original(tmp_path, sys.executable, section) as original:
        assert original.made == {"parameters": 11}
        costs = against.compare(section, "fp32", 2, {"original": original}, ("ours", "limit"))
    assert {name: len(taken) for name, taken in costs.items()} == {"unit": 2, "original": 2, "ours": 2, "limit": 2}
    assert calls == ["fp32"] * 3
    figures = against.report(section, "fp32", costs)
    assert figures["original"] > 0
    told = capsys.readouterr().out
    for word in ("original", "samples a CPU second", "ours / limit", "times as quick", "bar: limit x 2"):
        assert word in told
