"""The training loop: it learns, adds up right, and goes on after a kill as if nothing had happened."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from mplug_owl.chat import Chat
from mplug_owl.data.encode import Encoding
from mplug_owl.data.loader import StepDataset
from mplug_owl.errors import BadSample, Interrupted, UserError
from mplug_owl.model.build import Modules
from mplug_owl.model.load import Owl, load
from mplug_owl.train import checkpoint, loop, metrics
from mplug_owl.train.loop import dropout_seed
from mplug_owl.train.recipe import LoRA, Optimizer, Recipe, Schedule
from mplug_owl.train.reporter import Progress
from tests.school import (
    SCENES,
    SEED,
    PowerCutError,
    initial_model,
    killed_at,
    lesson,
    lessons,
    quietly,
    small_with_dropout,
    taught,
    weights,
)
from tests.world import scenes

STEADY = {
    "optimizer": Optimizer(lr=1e-2, weight_decay=0.0, betas=(0.9, 0.98)),
    "schedule": Schedule(warmup_steps=0),
    "clip": None,
}


def trained(recipe: Recipe, data: Path, out: Path, *formats: str, **options) -> dict[str, torch.Tensor]:
    """The weights that a run of a fresh owl ends with."""
    sources = lessons(data, *formats)
    quietly(recipe, initial_model(recipe, sources), sources, out, **options)
    return load_file(out / "model" / "model.safetensors")


def losses(run: Path) -> dict[int, tuple[float, float]]:
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in metrics.read(run / "metrics.jsonl")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# It learns


def test_the_loss_falls(data: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    trained(lesson(steps=25, log_every=5, batch=8, micro_batch=8), data, tmp_path, report=told.append)
    assert [(progress.step, progress.steps) for progress in told] == [(step, 25) for step in (1, 5, 10, 15, 20, 25)]
    assert told[0].loss > 5  # about log(300), as if it drew words blindly
    assert told[-1].loss < 0.6 * told[0].loss
    assert all(progress.tokens_per_second > 0 for progress in told)


def test_a_run_leaves_its_recipe_its_metrics_its_curve_and_its_model(data: Path, tmp_path: Path) -> None:
    recipe = lesson(steps=4, log_every=3)
    trained(recipe, data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "metrics.jsonl", "curve.png", "model"}
    assert json.loads((tmp_path / "recipe.json").read_text())["steps"] == 4
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 3, 4]
    assert rows[1]["lr"] == pytest.approx(recipe.optimizer.lr)
    assert 0 <= rows[0]["padding"] < 1
    assert rows[0]["tokens_per_step"] > recipe.batch
    assert rows[0]["supervised_tokens"] > 0


def test_three_stages_one_after_the_other(data: Path, tmp_path: Path) -> None:
    """Stage 0 speaks, stage 1 sees, stage 2 answers; each goes on from the one before."""
    stages = [
        (lesson("frozen", "frozen", "full", encoding=Encoding(256, learn="everything", pictures=False)), "text"),
        (lesson("full", "full", "frozen"), "captions"),
        (lesson("frozen", "frozen", "lora"), "chat"),
    ]
    previous, before = None, {}
    for number, (recipe, layout) in enumerate(stages):
        folder = tmp_path / str(number)
        after = trained(replace(recipe, steps=2, init_from=previous), data, folder, layout)
        changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
        assert changed == [set(), {"vision_tower", "abstractor"}, {"language_model"}][number]
        previous, before = str(folder), after


# It adds up


def test_accumulating_is_one_big_batch_though_answers_differ_in_length(data: Path, tmp_path: Path) -> None:
    """The mean of the parts' means would weigh a word of a short answer more; the step's own mean does not."""
    (source,) = lessons(data, "text")
    made = {}
    for micro_batch in (1, 2, 8):
        steady = {**STEADY, "optimizer": Optimizer(lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98))}
        recipe = lesson(steps=1, batch=8, micro_batch=micro_batch, **steady)
        made[micro_batch] = trained(recipe, data, tmp_path / str(micro_batch), "text")
        (row,) = metrics.read(tmp_path / str(micro_batch) / "metrics.jsonl")
        made[micro_batch] |= {"loss": torch.tensor(row["loss"]), "norm": torch.tensor(row["grad_norm"])}
    answers = {sum(len(answer) for answer in source[i].answers) for i in range(len(source))}
    assert max(answers) > 1.5 * min(answers)  # else accumulating would be right by chance
    for micro_batch in (1, 2):
        torch.testing.assert_close(made[micro_batch], made[8], atol=5e-6, rtol=0)  # worst measured 1.3e-6


def test_a_step_with_nothing_to_learn_moves_nothing(data: Path, tmp_path: Path) -> None:
    recipe = lesson(steps=2, encoding=Encoding(max_tokens=4), **STEADY)
    sources = lessons(data)
    owl = initial_model(recipe, sources)
    before = weights(owl.model)
    quietly(recipe, owl, sources, tmp_path)
    assert same(before, weights(owl.model))
    assert losses(tmp_path) == {1: (0.0, 0.0), 2: (0.0, 0.0)}


def test_bf16_learns_as_fp32_does(data: Path, tmp_path: Path) -> None:
    curves = {}
    for precision in ("fp32", "bf16"):
        trained(lesson(steps=15, precision=precision), data, tmp_path / precision)
        curves[precision] = torch.tensor([loss for loss, _ in losses(tmp_path / precision).values()])
    assert not torch.equal(curves["bf16"], curves["fp32"])
    torch.testing.assert_close(curves["bf16"], curves["fp32"], rtol=5e-3, atol=0)  # worst measured 1.4e-3


@pytest.mark.parametrize("trainable", [("full", "full", "frozen"), ("frozen", "frozen", "lora")], ids="-".join)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_frozen_may_be_stored_in_half_the_memory(trainable, precision: str, data: Path, tmp_path: Path) -> None:
    half = lesson(*trainable, steps=4, frozen_bf16=True, precision=precision)
    made = trained(half, data, tmp_path / "half")
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    trained(replace(half, frozen_bf16=False), data, tmp_path / "whole")
    for step, (loss, _) in losses(tmp_path / "whole").items():
        assert losses(tmp_path / "half")[step][0] == pytest.approx(loss, rel=2e-3)  # worst measured 6e-4


@pytest.mark.parametrize("trainable", [("full", "full", "frozen"), ("frozen", "frozen", "lora")], ids="-".join)
def test_computing_layers_again_changes_no_number(trainable, data: Path, tmp_path: Path) -> None:
    plain = lesson(*trainable, steps=3, modules=Modules(small_with_dropout, vocabulary=300))
    kept = trained(plain, data, tmp_path / "kept")
    assert same(kept, trained(replace(plain, gradient_checkpointing=True), data, tmp_path / "again"))


def test_a_frozen_layer_is_computed_again_where_gradients_pass(data: Path, tmp_path: Path) -> None:
    recipe, sources = lesson("full", "full", "frozen", steps=3, gradient_checkpointing=True), lessons(data)
    owl, passes = initial_model(recipe, sources), []
    owl.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    quietly(recipe, owl, sources, tmp_path)
    assert len(passes) == 2 * recipe.steps * recipe.batch // recipe.micro_batch


def test_one_bad_step_moves_nothing_and_the_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, sources = lesson(steps=4), lessons(data)
    true_loss, seen = loop.batch_loss, []

    def sometimes_nan(model, batch, supervised, precision):
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        loss = true_loss(model, batch, supervised, precision)
        return loss * float("nan") if len(seen) == 2 else loss

    monkeypatch.setattr(loop, "batch_loss", sometimes_nan)
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path)
    before, after, later = seen[0], seen[2], seen[4]  # two passes a step
    assert torch.equal(before, after)
    assert not torch.equal(after, later)


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_leaves_behind_a_checkpoint_and_goes_on_from_it(
    signal_sent: signal.Signals, data: Path, tmp_path: Path
) -> None:
    recipe = lesson(steps=6, log_every=1, save_every=None)
    whole = trained(recipe, data, tmp_path / "whole")

    def ask(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal_sent)

    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        trained(recipe, data, tmp_path / "run", report=ask)
    assert signal.getsignal(signal_sent) is signal.SIG_DFL
    assert same(trained(recipe, data, tmp_path / "run", resume=True), whole)


# It goes on after a kill


FORGETFUL = lesson(
    "full", "full", "lora", steps=9, save_every=3, lora=LoRA(rank=2, alpha=4, dropout=0.3),
    modules=Modules(small_with_dropout, vocabulary=300),
)  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Path]:
    """A run that nothing stopped: its weights and its folder."""
    folder = tmp_path_factory.mktemp("unbroken")
    return trained(FORGETFUL, data, folder), folder


@pytest.fixture(scope="module")
def broken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed in step 8: checkpoints behind steps 3 and 6, metrics up to step 8."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.raises(PowerCutError):
        trained(FORGETFUL, data, folder, report=killed_at(8))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
    return folder


@pytest.fixture
def stopped(broken: Path, tmp_path: Path) -> Path:
    """A copy of it to go on with."""
    return Path(shutil.copytree(broken, tmp_path / "stopped"))


def resumed(run: Path, data: Path, recipe: Recipe = FORGETFUL) -> tuple[dict[str, torch.Tensor], list[str]]:
    told: list[str] = []
    return trained(recipe, data, run, resume=True, note=told.append), told


def test_a_resumed_run_ends_as_if_it_had_never_stopped(stopped: Path, data: Path, unbroken) -> None:
    weights, told = resumed(stopped, data)
    assert told == [f"{stopped}: resuming after step 6"]
    assert same(weights, unbroken[0])
    assert losses(stopped) == losses(unbroken[1])


def test_whatever_reads_the_data(data: Path, tmp_path: Path, unbroken) -> None:
    recipe = replace(FORGETFUL, workers=2)
    with pytest.raises(PowerCutError):
        trained(recipe, data, tmp_path, report=killed_at(5))
    weights, _ = resumed(tmp_path, data, recipe)
    assert same(weights, unbroken[0])


def test_checkpoints_between_two_lines_of_metrics_change_none_of_them(data: Path, tmp_path: Path) -> None:
    recipe = replace(FORGETFUL, log_every=5, save_every=3)
    trained(recipe, data, tmp_path / "whole")
    with pytest.raises(PowerCutError):
        trained(recipe, data, tmp_path / "stopped", report=killed_at(5))
    resumed(tmp_path / "stopped", data, recipe)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


def test_before_its_first_checkpoint_it_starts_again(data: Path, tmp_path: Path, unbroken) -> None:
    with pytest.raises(PowerCutError):
        trained(FORGETFUL, data, tmp_path, report=killed_at(2))
    weights, told = resumed(tmp_path, data)
    assert told == [f"{tmp_path}: no whole checkpoint; starting from the beginning"]
    assert same(weights, unbroken[0])
    assert losses(tmp_path) == losses(unbroken[1])


def test_an_error_waits_for_the_checkpoint_that_was_begun(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint.write

    def slowly(*args) -> Path:
        time.sleep(1)
        return write(*args)

    monkeypatch.setattr(checkpoint, "write", slowly)
    with pytest.raises(PowerCutError):
        trained(FORGETFUL, data, tmp_path, report=killed_at(4))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(harm: str, stopped: Path, data: Path, unbroken) -> None:
    newest = stopped / "checkpoints" / "step-00000006"
    file = newest / ("manifest.json" if harm == "manifest" else "learned.safetensors")
    held = bytearray(file.read_bytes())
    match harm:
        case "flip":
            held[len(held) // 2] ^= 1
            file.write_bytes(held)
        case "truncate" | "manifest":
            file.write_bytes(held[:-9])
        case "remove":
            file.unlink()
    weights, told = resumed(stopped, data)
    problem = {"remove": "learned.safetensors is missing", "manifest": "manifest.json is damaged"}
    problem = problem.get(harm, "learned.safetensors is damaged")
    assert told == [f"step-00000006: {problem}; renamed to step-00000006.damaged", f"{stopped}: resuming after step 3"]
    assert same(weights, unbroken[0])
    assert losses(stopped) == losses(unbroken[1])


VARIED = replace(
    FORGETFUL,
    batch=None,
    batch_tokens=500,
    text_share=0.25,
    workers=2,
    encoding=Encoding(max_tokens=128, pack=256, crop=0.6, caption_prompts=True),
)  # fmt: skip


def test_crops_prompts_and_packed_rows_come_again_as_they_were(data: Path, tmp_path: Path) -> None:
    """Steps counted in tokens, text and pictures mixed, read by two workers before the kill and by none behind it."""
    kinds = ("captions", "chat", "text")
    whole = trained(VARIED, data, tmp_path / "whole", *kinds)
    with pytest.raises(PowerCutError):
        trained(VARIED, data, tmp_path / "run", *kinds, report=killed_at(5))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["batch"] > 1
    told: list[str] = []
    again = trained(replace(VARIED, workers=0), data, tmp_path / "run", *kinds, resume=True, note=told.append)
    assert told == [f"{tmp_path / 'run'}: resuming after step 3"]
    assert same(again, whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_another_recipe_is_refused_with_what_differs(stopped: Path, data: Path) -> None:
    other = replace(FORGETFUL, optimizer=replace(FORGETFUL.optimizer, lr=0.5), batch=8)
    told = r"another recipe; it differs in batch: 4 then, 8 now; optimizer\.lr: 0\.01 then, 0\.5 now$"
    with pytest.raises(ValueError, match=told):
        resumed(stopped, data, other)


def test_a_used_folder_is_refused(stopped: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="holds a run already; choose another --out, or continue it by --resume"):
        trained(FORGETFUL, data, stopped)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_nothing_can_learn_it_says_so(mode, data: Path, tmp_path: Path) -> None:
    told = r"^train: called under torch\.no_grad\(\) or inference_mode, where nothing can learn; call it outside$"
    with mode(), pytest.raises(ValueError, match=told):
        trained(lesson(), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What goes wrong in a program is no bad sample


@pytest.mark.parametrize("workers", [0, 1])
def test_a_programmers_mistake_in_collate_is_a_crash(
    workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*unused: object) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr(StepDataset, "_padded", mistaken)
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter") as caught:
        trained(lesson(workers=workers), data, tmp_path)
    assert not isinstance(caught.value, (UserError, BadSample))
    places = [step.name for step in caught.traceback]
    assert "mistaken" in (places if workers == 0 else str(caught.value))  # a worker's traceback comes in its message
    assert not multiprocessing.active_children()  # which would keep the crashed process from ending
    assert not (tmp_path / "quarantine.jsonl").exists()
    assert not (tmp_path / "model").exists()


def test_dropout_is_seeded_by_the_forward_pass() -> None:
    """One seed for each pass of each process in each step, the same on every machine and Python."""
    seeds = {dropout_seed(*numbers) for numbers in itertools.product(range(2), range(20), range(3), range(5))}
    assert len(seeds) == 2 * 20 * 3 * 5
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert dropout_seed(0, 1, 2, 3) == 7380415388732843261


# What it leaves


def test_the_finished_model_is_the_one_in_memory(data: Path, tmp_path: Path) -> None:
    recipe, sources = lesson("full", "full", "lora", steps=3), lessons(data)
    owl = initial_model(recipe, sources)
    finished = quietly(recipe, owl, sources, tmp_path)
    said = logits(owl)
    assert torch.equal(logits(load(tmp_path)), said)
    assert torch.equal(logits(Owl(AutoModelForImageTextToText.from_pretrained(finished), owl.processor)), said)


def test_the_adapter_alone_loads_with_peft(data: Path, tmp_path: Path) -> None:
    trained(lesson(steps=2), data, tmp_path / "base")
    trained(lesson("frozen", "frozen", "lora", steps=3, init_from=str(tmp_path / "base")), data, tmp_path / "run")
    base, whole = load(tmp_path / "base"), logits(load(tmp_path / "run"))
    assert not torch.allclose(logits(base), whole, atol=1e-3)
    torch.testing.assert_close(logits(load(tmp_path / "run" / "adapter")), whole)
    adapted = PeftModel.from_pretrained(base.model, tmp_path / "run" / "adapter")
    torch.testing.assert_close(logits(Owl(adapted, base.processor)), whole)


@torch.no_grad()
def logits(owl: Owl) -> torch.Tensor:
    scene = next(scenes(SCENES, SEED))
    return owl.model(**owl.processor(text="<image>What is it?", images=scene.draw())).logits


def test_adapter_and_base_can_be_moved_together(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(lesson(steps=2), data, Path("runs/see"))
    trained(lesson("frozen", "frozen", "lora", steps=3, init_from="runs/see"), data, Path("runs/answer"))
    Path("runs").rename("elsewhere")
    monkeypatch.chdir("elsewhere")
    torch.testing.assert_close(logits(load("answer/adapter")), logits(load("answer")))


def test_an_adapter_that_would_not_be_all_is_not_written(data: Path, tmp_path: Path) -> None:
    """Beside a module that learned in full it would be half of what was learned."""
    trained(lesson("frozen", "full", "lora", steps=2), data, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_a_taught_owl_knows_its_scenes() -> None:
    said, right = [], []
    for scene in scenes(SCENES, SEED):
        chat = Chat(taught())
        for turn, (question, answer) in enumerate(scene.questions()):
            said.append(chat.ask(question, [scene.draw()] if turn == 0 else []))
            right.append(answer)
    assert said == right
