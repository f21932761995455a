"""The three policies in a study: what their answers took is counted beside what their captioner's stage cost."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.chat import Decoding, load
from mplug_owl.chat.trace import trace_of
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.experiments.ablation import ablate
from mplug_owl.experiments.experts import arms
from mplug_owl.experiments.experts.mm_react import MMReact
from mplug_owl.experiments.experts.model import ExpertsChatModel
from mplug_owl.experiments.study import Arm, Study
from mplug_owl.recipes import tiny
from mplug_owl.scenes import scene
from tests.experiments.experts.stubs import Repeater, Stub
from tests.experiments.test_ablation import Colours, Guesser

pytest.importorskip("scipy")


def test_an_arm_has_a_captioner_and_learns_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "load", lambda folder: load(folder.name))
    made = arms.collaborating(tiny.pretrain())
    assert [arm.name for arm in made] == ["visual-chatgpt", "mm-react", "hugginggpt"]
    assert {arm.stages for arm in made} == {(tiny.pretrain(),)}
    shown = scene(5)
    for arm in made:
        assert arm.answers is not None
        model = arm.answers(Path("runs/owl-tiny"))
        asked = Conversation(()).said("user", Picture(shown.draw())).said("user", "How many things are there?")
        (answer,) = model.answers([asked], Decoding(max_new_tokens=8))
        assert [call.to for call in trace_of(answer)] == ["caption", "detect", "language model"]


def test_calls_and_seconds_of_experts_are_in_the_study(tmp_path: Path) -> None:
    experts = ExpertsChatModel(MMReact(), [Stub("read", "red")], Repeater())
    both = (Arm("experts", "experts", answers=lambda _: experts), Arm("guess", "a guess", answers=lambda _: Guesser(0.5)))
    study = Study("two", "Who?", both, task=Colours(), conditions=())
    found = ablate(study, tmp_path / "out", console=Console(quiet=True))
    assert list(found.answering) == ["experts"]
    took = found.answering["experts"]
    assert (took.answers, took.calls, took.faults) == (36, 36, 0)
    table, page = ((tmp_path / "out" / name).read_text("utf-8") for name in ("table.txt", "study.html"))
    assert "answering asked, where experts answer" in table
    assert "plans not understood" in page
    plain = ablate(replace(study, name="one", arms=both[1:]), tmp_path / "plain", seeds=1, console=Console(quiet=True))
    assert "answering" not in plain.as_json()
