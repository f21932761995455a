"""What a run will cost, against the arithmetic of the paper's sizes and against what a real step costs."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from mplug_owl.data.loader import Encoding
from mplug_owl.recipes import find, names, paper, tiny
from mplug_owl.train.plan import Device, plan, show
from mplug_owl.train.recipe import Learners, Recipe
from mplug_owl.train.run import open_data, start, who_learns
from mplug_owl.train.trainable import prepare
from tests.school import lesson, lessons

P_L = 6.607e9  # LLaMA-7B without its embedding
F_V, F_K = 0.162e12, 0.017e12  # forward, one picture


def shown(recipe: Recipe, device: Device | None = None, width: int = 80) -> str:
    made = plan(recipe)
    console = Console(record=True, width=width, file=io.StringIO())
    show(made, device or Device(), console, who_learns(made.parts, recipe.name))
    return console.export_text()


@pytest.mark.parametrize(
    ("learners", "expected"),
    [
        (Learners("full", "full", "frozen"), lambda T: 4 * P_L * T + 3 * (F_V + F_K)),
        (Learners("frozen", "frozen", "lora"), lambda T: 4 * P_L * T + F_V + F_K),
        (Learners("frozen", "frozen", "full"), lambda T: 6 * P_L * T + F_V + F_K),
        (Learners("frozen", "full", "frozen"), lambda T: 4 * P_L * T + F_V + 3 * F_K),
        (Learners("full", "full", "full"), lambda T: 6 * P_L * T + 3 * (F_V + F_K)),
    ],
)
def test_flops_of_a_sample(learners: Learners, expected) -> None:
    recipe = replace(paper.pretrain(), learners=learners)
    assert plan(recipe).flops_per_sample == pytest.approx(expected(512), rel=0.002)


def test_text_alone_costs_no_picture() -> None:
    recipe = replace(paper.instruct(), encoding=Encoding(max_tokens=1024, pictures=False))
    assert plan(recipe).flops_per_sample == pytest.approx(4 * P_L * 1024, rel=0.002)


@pytest.mark.parametrize("learners", [("full", "full", "frozen"), ("frozen", "frozen", "full"), ("full", "full", "full")])
def test_flops_are_what_a_step_really_takes(learners: tuple[str, str, str], tmp_path) -> None:
    """Counted while it runs. The plan leaves out the language model's attention, which is little for short samples."""
    recipe = replace(tiny.pretrain(), learners=Learners(*learners), encoding=Encoding(max_tokens=64))
    owl = start(recipe, lessons(tmp_path))
    recipe = replace(recipe, modules=replace(recipe.modules, config=lambda: owl.model.config))
    prepare(owl.model, recipe)
    words = "a " * 200
    inputs = owl.processor(text=f"<image>{words}", images=[lessons(tmp_path)[0][0].pictures[0].source])
    inputs = {name: tensor[:, :64] if tensor.ndim == 2 else tensor for name, tensor in inputs.items()}
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == owl.model.config.image_token_id, 0)
    with FlopCounterMode(display=False) as counter:
        owl.model(**inputs, labels=labels, use_cache=False).loss.backward()
    assert plan(recipe).flops_per_sample == pytest.approx(counter.get_total_flops(), rel=0.06)  # worst measured 0.047


def test_the_papers_first_stage_reads_105_billion_tokens() -> None:
    made = plan(paper.pretrain())
    assert made.tokens_per_step * made.recipe.steps == pytest.approx(104.9e9, rel=1e-3)
    assert made.positions_per_picture == 65
    text = shown(paper.pretrain())
    assert "104.9 B" in text
    assert "upper bound" in text


def test_time_is_work_over_rate() -> None:
    made = plan(paper.pretrain())
    one, eight = Device(tflops=1000, mfu=0.5), Device(tflops=1000, mfu=0.5, count=8)
    assert made.hours(one) == pytest.approx(made.flops / 5e14 / 3600)
    assert made.hours(one) == 8 * made.hours(eight)


def test_on_data_it_measures_instead_of_guessing(tmp_path) -> None:
    sources = lessons(tmp_path)
    recipe = lesson(data=(f"chat:{tmp_path}/chats.jsonl",))
    owl = start(recipe, sources)
    made = plan(recipe, open_data(recipe.data)[0], owl.processor)
    assert made.measured
    assert made.pictures_per_sample == 1
    assert 40 < made.tokens_per_sample < recipe.encoding.max_tokens


def test_memory_by_part() -> None:
    first, second = plan(paper.pretrain()), plan(paper.instruct())
    learned, frozen = 384_653_312, 6_738_415_616
    assert first.memory["weights that learn"] == 4 * learned
    assert first.memory["weights that are frozen"] == 2 * frozen
    assert first.memory["gradients"] == 4 * learned
    assert first.memory["AdamW's two averages"] == 8 * learned
    assert second.memory["gradients"] == 4 * 4_194_304
    again = plan(replace(paper.pretrain(), gradient_checkpointing=True))
    assert again.memory["activations"] < first.memory["activations"] / 5
    assert plan(replace(paper.pretrain(), micro_batch=16)).memory["activations"] == first.memory["activations"] / 2


@pytest.mark.parametrize(
    ("changes", "first_advice"),
    [
        ({}, "--set micro_batch=16"),
        ({"micro_batch": 1, "frozen_bf16": False}, "--set frozen_bf16=true"),
        ({"micro_batch": 1}, "--set gradient_checkpointing=true"),
        (
            {"micro_batch": 1, "learners": Learners("frozen", "frozen", "full"), "gradient_checkpointing": True},
            "--set learners.language=lora",
        ),
        ({"micro_batch": 1, "gradient_checkpointing": True}, "more devices"),
    ],
)
def test_what_does_not_fit_comes_with_advice(changes: dict, first_advice: str) -> None:
    text = shown(replace(paper.pretrain(), **changes), Device(memory_gib=8), width=200)
    _, _, advice = text.partition("GiB do not fit into 8 GiB. What helps, most first:\n")
    assert advice.strip().startswith(first_advice)


def test_what_fits_comes_without() -> None:
    assert "do not fit" not in shown(tiny.pretrain())


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_a_plan_that_fits_eighty_columns(name: str) -> None:
    text = shown(find(name))
    assert name in text
    for part in ("f_V vision", "f_K abstractor", "f_L language"):
        assert part in text
    for line in text.splitlines():
        assert len(line) <= 80
        # A wrapped cell shows as a line that has words only far to the right.
        assert not line.startswith(" " * 20), text
