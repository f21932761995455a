"""What a run will cost, against the arithmetic of the paper's sizes and against what a real step costs."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.data.encode import Encoding
from mplug_owl.data.survey import Survey
from mplug_owl.recipes import find, names, paper, tiny
from mplug_owl.train.flops import Flops, Utilisation, device_tflops
from mplug_owl.train.optim import make_optimizer
from mplug_owl.train.plan import Device, plan
from mplug_owl.train.plan_report import compare, show
from mplug_owl.train.recipe import Recipe, Trainable, override
from mplug_owl.train.reporter import trainable_table
from mplug_owl.train.run import open_data
from mplug_owl.train.trainable import prepare
from tests.school import initial_model, lesson, lessons

P_L = 6.607e9  # LLaMA-7B without its embedding
F_V, F_K = 0.162e12, 0.017e12  # forward, one picture
# Stage 1 as the appendix counts it, padding included.
PADDED = replace(paper.pretrain_appendix(), encoding=Encoding(max_tokens=512))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting what is kept takes seconds for 7 B; where the rest is looked at it is taken as known."""

    def known(owl: object, recipe: Recipe, tokens: int) -> tuple[float, float]:
        return (0.3e9, 0.03e9) if recipe.gradient_checkpointing else (2.2e9, 0.35e9)

    monkeypatch.setattr("mplug_owl.train.plan.activation_bytes", known)


def shown(recipe: Recipe, device: Device | None = None, width: int = 80) -> str:
    made = plan(recipe)
    console = Console(record=True, width=width, file=io.StringIO())
    show(made, device or Device(), console, trainable_table(made.parts, recipe.name))
    return console.export_text()


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (Trainable("full", "full", "frozen"), lambda T: 4 * P_L * T + 3 * (F_V + F_K)),
        (Trainable("frozen", "frozen", "lora"), lambda T: 4 * P_L * T + F_V + F_K),
        (Trainable("frozen", "frozen", "full"), lambda T: 6 * P_L * T + F_V + F_K),
        (Trainable("frozen", "full", "frozen"), lambda T: 4 * P_L * T + F_V + 3 * F_K),
        (Trainable("full", "full", "full"), lambda T: 6 * P_L * T + 3 * (F_V + F_K)),
        # One of 32 layers, 202 M parameters, is gone through three times; what is behind it is the head alone.
        (Trainable("frozen", "frozen", "last"), lambda T: (2 + 4 * 0.2024 / 6.738) * P_L * T + F_V + F_K),
    ],
)
def test_flops_of_a_sample(trainable: Trainable, expected, quick) -> None:
    recipe = replace(PADDED, trainable=trainable)
    assert plan(recipe).flops_per_sample == pytest.approx(expected(512), rel=0.002)


def test_text_alone_costs_no_picture(quick) -> None:
    recipe = replace(paper.instruct(), encoding=Encoding(max_tokens=1024, pictures=False))
    assert plan(recipe).flops_per_sample == pytest.approx(4 * P_L * 1024, rel=0.002)


def test_one_picture_a_sample_is_said_as_one(quick) -> None:
    assert "; 1 picture a sample " in shown(paper.instruct(), width=120)


@pytest.mark.parametrize(
    "trainable",
    [
        ("full", "full", "frozen"),
        ("frozen", "frozen", "full"),
        ("full", "full", "full"),
        ("frozen", "frozen", "lora"),
        ("frozen", "full", "last"),
    ],
)
def test_flops_are_what_a_step_really_takes(trainable: tuple[str, str, str], tmp_path) -> None:
    """Counted while it runs. The plan leaves out the language model's attention, which is little for short samples.

    LLaMA's layers, because torch counts the weights' gradient of LFM2's convolutions, a channel each, as if all met all.
    """
    modules = replace(tiny.PACKABLE, vocabulary=300)
    recipe = replace(tiny.instruct(), modules=modules, trainable=Trainable(*trainable), encoding=Encoding(max_tokens=64))
    recipe = replace(recipe, init_from=None)
    owl = initial_model(recipe, lessons(tmp_path))
    recipe = replace(recipe, modules=replace(recipe.modules, config=lambda: owl.model.config))
    prepare(owl.model, recipe)
    words = "a " * 200
    inputs = owl.processor(text=f"<image>{words}", images=[lessons(tmp_path)[0][0].pictures[0].source])
    inputs = {name: tensor[:, :64] if tensor.ndim == 2 else tensor for name, tensor in inputs.items()}
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == owl.model.config.image_token_id, 0)
    with FlopCounterMode(display=False) as counter:
        owl.model(**inputs, labels=labels, use_cache=False).loss.backward()
    assert plan(recipe).flops_per_sample == pytest.approx(counter.get_total_flops(), rel=0.06)  # worst measured 0.047


def test_the_papers_first_stage_reads_105_billion_tokens(quick) -> None:
    for recipe in (paper.pretrain(), PADDED):
        made = plan(recipe)
        assert made.tokens_per_step * made.recipe.steps == pytest.approx(104.9e9, rel=1e-3)
        assert made.samples_per_step == 4096
        assert made.positions_per_picture == 65
        text = shown(recipe)
        assert "104.9 B" in text
        assert "upper bound" in text


def test_where_tokens_make_a_step_nothing_but_pictures_is_the_bound(quick) -> None:
    """Captions of 90 positions are 23,302 pictures a step, which cost more than 4,096 long texts with one each."""
    recipe = paper.pretrain()
    made = plan(recipe)
    step = made.flops_per_sample * made.samples_per_step
    pictures = recipe.batch_tokens / 65
    assert step == pytest.approx(4 * P_L * recipe.batch_tokens + 3 * (F_V + F_K) * pictures, rel=0.002)
    assert step > 4 * P_L * recipe.batch_tokens + 3 * (F_V + F_K) * recipe.batch_tokens / 90
    assert made.pictures_at_once == pytest.approx(2048 / 65)
    assert "2,048 positions, 31.5 pictures at once" in shown(recipe)


def test_on_data_a_step_has_as_many_samples_as_come_to_its_tokens(tmp_path) -> None:
    sources = lessons(tmp_path)
    recipe = lesson(batch=None, batch_tokens=5000, encoding=Encoding(max_tokens=256, pack=512))
    made = plan(recipe, Survey(sources), initial_model(recipe, sources).processor)
    assert made.tokens_per_step == pytest.approx(5000)
    assert made.samples_per_step == pytest.approx(5000 / made.tokens_per_sample)
    assert made.pictures_at_once == pytest.approx(512 / made.tokens_per_sample)


def test_time_is_work_over_rate(quick) -> None:
    made = plan(paper.pretrain())
    one, eight = Device(tflops=1000, mfu=0.5), Device(tflops=1000, mfu=0.5, count=8)
    assert made.hours(one) == pytest.approx(made.flops / 5e14 / 3600)
    assert made.hours(one) == 8 * made.hours(eight)


def test_mfu_is_work_over_what_the_device_could_do() -> None:
    utilisation = Utilisation(Flops(token=2e9, picture=1e12), tflops=100)
    assert utilisation.mfu(tokens=1000, pictures=3, seconds=0.1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_rate_is_the_datasheets_or_none(name: str, rate: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert device_tflops(torch.device("cuda")) == rate
    assert device_tflops(torch.device("cpu")) is None


def test_on_data_it_measures_instead_of_guessing(tmp_path) -> None:
    sources = lessons(tmp_path)
    recipe = lesson(data=(f"chat:{tmp_path}/chats.jsonl",))
    owl = initial_model(recipe, sources)
    made = plan(recipe, Survey(*open_data(recipe.data)), owl.processor)
    assert made.measured
    assert made.pictures_per_sample == 1
    assert 40 < made.tokens_per_sample < recipe.encoding.max_tokens


def test_memory_by_part() -> None:
    first, second = plan(PADDED), plan(paper.instruct())
    learned, frozen = 384_653_312, 6_738_415_616
    assert first.memory["weights that learn"] == 4 * learned
    assert first.memory["weights that are frozen"] == 2 * frozen
    assert first.memory["gradients"] == 4 * learned
    assert first.memory["AdamW's two averages"] == 8 * learned
    assert second.memory["gradients"] == 4 * 4_194_304
    assert first.memory["activations"] / 2**30 == pytest.approx(73.9, rel=0.01)  # of 32 samples
    assert first.memory["bf16 copies of what learns"] == 2 * learned
    assert "bf16 copies of what learns" not in plan(replace(tiny.pretrain(), precision="fp32")).memory


def test_what_muon_remembers_is_what_it_really_does(tmp_path) -> None:
    recipe = lesson(optimizer=replace(lesson().optimizer, muon=True))
    owl = initial_model(recipe, lessons(tmp_path))
    recipe = replace(recipe, modules=replace(recipe.modules, config=lambda: owl.model.config))
    optimizer = make_optimizer(owl.model, recipe.optimizer)
    for weight in owl.model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    kept = sum(
        value.numel() * 4 for part in optimizer.parts for state in part.state.values() for value in state.values() if value.ndim
    )
    assert plan(recipe).memory["averages, Muon's and AdamW's"] == kept


def test_activations_grow_with_the_micro_batch_and_shrink_by_computing_layers_again() -> None:
    usual = plan(tiny.pretrain()).memory["activations"]
    assert plan(replace(tiny.pretrain(), micro_batch=8)).memory["activations"] == usual / 2
    assert plan(replace(tiny.pretrain(), gradient_checkpointing=True)).memory["activations"] < usual / 2  # four layers, not 32


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, ["micro_batch=1", "gradient_checkpointing=true", "all of these", "more devices"]),
        ({"micro_batch": 1, "frozen_bf16": False}, ["frozen_bf16=true", "gradient_checkpointing=true"]),
        ({"micro_batch": 1, "trainable": Trainable("frozen", "frozen", "full")}, ["trainable.language=lora"]),
        ({"micro_batch": 1, "gradient_checkpointing": True}, ["more devices"]),
    ],
)
def test_what_does_not_fit_comes_with_advice(changes: dict, advice: list[str], quick) -> None:
    text = shown(replace(PADDED, **changes), Device(memory_gib=8))
    _, _, given = text.partition("GiB do not fit into 8 GiB. What helps, most first:\n")
    lines = given.strip().splitlines()
    for expected, line in zip(advice, lines, strict=False):
        assert expected in line
    left = [float(line.split(" GiB")[0].split()[-1].replace(",", "")) for line in lines if "--set" in line]
    assert left == sorted(left)


def test_advice_says_what_it_leaves(quick) -> None:
    text = shown(PADDED, Device(memory_gib=75))
    (fewer,) = (line for line in text.splitlines() if "micro_batch=" in line)
    assert "--set micro_batch=16 " in fewer  # the most that fits
    assert f" {plan(override(PADDED, ['micro_batch=16'])).gib:.0f} GiB" in fewer
    assert "all of these" not in text


def test_stages_below_each_other(quick) -> None:
    plans = [plan(find(name)) for name in ("paper.pretrain", "paper.instruct_with_abstractor", "paradigms.llava_instruct")]
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(compare(plans, Device()))
    lines = console.export_text().splitlines()
    assert max(len(line) for line in lines) <= 80
    first = next(line for line in lines if "paper.pretrain" in line)
    assert first.index("🔥") < first.rindex("🔥") < first.index("❄")
    assert "104.9 B" in first
    assert "in all" in lines[-2]
    assert "106.4 B" in lines[-2]


def test_a_packed_row_holds_as_many_samples_as_it_has_room_for(quick) -> None:
    padded, packed = plan(PADDED), plan(replace(PADDED, encoding=replace(PADDED.encoding, pack=16_384)))
    same = ("logits", "gradients", "weights that learn")
    assert all(packed.memory[name] == padded.memory[name] for name in same)  # 32 of 512
    # 16,384 positions could be 252 pictures, and of captions nearly are.
    more = (packed.memory["activations"] - padded.memory["activations"]) / 0.35e9
    assert more == pytest.approx(16_384 / 65 - 32)
    assert plan(replace(packed.recipe, micro_batch=1)).memory == packed.memory
    assert "encoding.pack=8192 " in shown(packed.recipe, Device(memory_gib=110))


def test_what_fits_comes_without() -> None:
    assert "do not fit" not in shown(tiny.pretrain())


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_a_plan_that_fits_eighty_columns(name: str, quick) -> None:
    text = shown(find(name))
    assert name in text
    for part in ("f_V vision", "f_K abstractor", "f_L language"):
        assert part in text
    for line in text.splitlines():
        assert len(line) <= 80
        # A wrapped cell shows as a line that has words only far to the right.
        assert not line.startswith(" " * 20), text
