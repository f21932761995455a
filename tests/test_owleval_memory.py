"""From end to end on real photographs: eight of OwlEval's are learned by heart, and the owl looks at them.

benchmarks/owleval_memory.py does so with all fifty; this is its short form, for where the photographs are.
"""

import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

STEPS = {"tiny.language": 60, "tiny.pretrain": 200, "tiny.instruct": 60}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, its stages cut to about half a minute on one core."""
    path = Path(__file__).parents[1] / "benchmarks" / "owleval_memory.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stages = module.stages

    def short(folder: Path, count: int) -> list:
        made = [replace(recipe, steps=STEPS[recipe.name]) for recipe in stages(folder, count)]
        return [replace(made[0], batch=8, micro_batch=8), *made[1:]]

    monkeypatch.setattr(module, "stages", short)
    return module


def test_the_first_sentence(benchmark: ModuleType) -> None:
    assert benchmark.first_sentence(" It costs 3.50 dollars. Or more.") == "It costs 3.50 dollars."
    assert benchmark.first_sentence("no end") == "no end"


def test_eight_photographs_are_told_apart(benchmark: ModuleType, shared: Path, tmp_path: Path) -> None:
    if not (shared / "owleval").is_dir():
        pytest.skip(f"{shared / 'owleval'} is not here")
    found = benchmark.measure(shared / "owleval", tmp_path, pictures=8, console=Console(file=io.StringIO()))
    assert found["pictures"] == 8
    assert found["own"] >= 7  # measured 8
    assert found["exchanged"] <= 3  # measured 0, 1 and 2 by seed and rounding; 8 where pictures are not looked at
