"""benchmarks/gpu.py at a laptop's size: what it will measure on a card is a step that learns, and its sums are right."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks.device import stand_in


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WARM_UP", 1)
    return module


OPTIONS = {"words": 3, "workers": 0, "compile": False, "fused": False, "fsdp": False, "checkpointing": False}


def arguments(**changed) -> SimpleNamespace:
    return SimpleNamespace(
        **{"size": "tiny", "stage": None, "row": 512, "rows": 1, "steps": 1, "tflops": 1.0, **OPTIONS, **changed}
    )


def test_both_stages_are_measured(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    card, asked = stand_in()
    benchmark.main(arguments(), card)
    machine, first, second, decoding = map(json.loads, capsys.readouterr().out.splitlines())
    assert (machine["machine"], machine["row"]) == ("NVIDIA H200", 512)
    assert set(asked) == {*vars(card.cuda), "pin_memory"}, "a line of the card's door is never run"
    assert [speed["batch"] for speed in decoding["decoding"]] == [1, 4, 32]
    assert all(speed["words_a_second"] > 0 and speed["bandwidth"] > 0 for speed in decoding["decoding"])
    assert (first["stage"], second["stage"]) == ("tiny.pretrain", "tiny.instruct")
    for measured in (first, second):
        assert measured["losses"][1] < measured["losses"][0]
        assert measured["mfu"] > 0
        assert measured["tokens_a_second"] > 0
        assert 0 <= measured["data_wait"] < 1
        assert (measured["peak_gib"], measured["host_syncs"]["train/optim.py:clip_gradients"]) == (3.0, 1)
    assert second["learned"] < first["learned"] < first["parameters"]
    assert second["tokens_a_sample"] > 2 * first["tokens_a_sample"]


def test_a_row_that_samples_do_not_fill_is_refused(benchmark: ModuleType) -> None:
    """A picture has 41 positions there, so that nothing would ever come."""
    recipe, talks = benchmark.stage("pretrain", "tiny", 40)
    with torch.device("meta"):
        owl = benchmark.MplugOwlForConditionalGeneration(recipe.modules.config())
    with pytest.raises(SystemExit, match="--row 40: no samples fill"):
        benchmark.rows(recipe, talks, owl, 1)


@pytest.mark.slow
def test_every_choice_learns(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """FSDP2, AdamW in one kernel and activations computed again, together: the step is the same to rounding."""
    benchmark.main(arguments(stage=["pretrain"], words=0))
    benchmark.main(arguments(stage=["pretrain"], words=0, fsdp=True, fused=True, checkpointing=True))
    _, plain, _, chosen = map(json.loads, capsys.readouterr().out.splitlines())
    assert chosen["losses"] == pytest.approx(plain["losses"], rel=5e-3)


def test_the_full_size_reads_about_a_hundred_tokens_a_caption(benchmark: ModuleType) -> None:
    """As many as FACTS and the plan's figures are given for; the model is on the meta device, so only its sizes are made."""
    recipe, talks = benchmark.stage("pretrain", "full", 4096)
    with torch.device("meta"):
        owl = benchmark.MplugOwlForConditionalGeneration(recipe.modules.config())
    (batch,) = benchmark.rows(recipe, talks, owl, 1)
    assert 85 < batch.tokens / len(batch.names) < 115
    assert 0.8 * 4096 < batch.tokens <= 4096
    assert len(batch.pixel_values) == len(batch.names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_full_size_says_so_in_a_line(benchmark: ModuleType) -> None:
    with pytest.raises(
        SystemExit, match=r"^gpu\.py: --size full needs a CUDA device with about 80 GiB; --size tiny runs on any"
    ):
        benchmark.main(arguments(size="full"))
