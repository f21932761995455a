"""A compiled language model learns what a plain one learns, and the weights keep their names."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mplug_owl.train import metrics
from mplug_owl.train.exam import Exam
from tests.school import initial_model, lesson, lessons, quietly


# What torch 2.13 warns of while it compiles is its own code, and that it looks for gradients where none are asked for.
@pytest.mark.slow  # a compiler's half minute
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_run_learns_the_same(tmp_path: Path) -> None:
    sources, modes = lessons(tmp_path / "data"), []
    for compiled in (False, True):
        exam = Exam(2, lambda owl: {"eval/asked": float(modes.append(owl.model.training) or len(modes))})
        recipe = lesson(steps=3, compile=compiled)
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path / str(compiled), exam=exam)
    plain, compiled = ([row["loss"] for row in metrics.read(tmp_path / run / "metrics.jsonl")] for run in ("False", "True"))
    assert compiled == pytest.approx(plain, rel=1e-4)
    weights = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("False", "True")]
    assert weights[0].keys() == weights[1].keys()
    assert modes == [False] * 4


def test_a_machine_without_a_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sources, recipe = lessons(tmp_path / "data"), lesson(compile=True)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and this machine has no c\+\+, g\+\+.*compile=false"):
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
