"""Recipes are frozen values, changed by `field.path=value` settings that are checked against the field's type."""

import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from mplug_owl.data.encode import Encoding
from mplug_owl.errors import UserError
from mplug_owl.recipes import paper
from mplug_owl.train.ranges import check_used
from mplug_owl.train.recipe import Trainable, Tuning, as_json, override
from tests.school import lesson


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("steps=7", lambda recipe: recipe.steps == 7),
        ("optimizer.lr=1e-4", lambda recipe: recipe.optimizer.lr == 1e-4),
        ("optimizer.betas=0.9, 0.95", lambda recipe: recipe.optimizer.betas == (0.9, 0.95)),
        ("clip=none", lambda recipe: recipe.clip is None),
        ("trainable.language=lora", lambda recipe: recipe.trainable.language == "lora"),
        ("optimizer.rates.vision=1e-5", lambda recipe: recipe.optimizer.rates.vision == 1e-5),
        ("optimizer.rates.vision=none", lambda recipe: recipe.optimizer.rates.vision is None),
        ("trainable.vision=last", lambda recipe: recipe.trainable.vision == "last"),
        ("trackers=tensorboard, wandb", lambda recipe: recipe.trackers == ("tensorboard", "wandb")),
        ("encoding.pictures=false", lambda recipe: recipe.encoding.pictures is False),
        ("save_every=20", lambda recipe: recipe.save_every == 20),
        ("encoding.crop=0.8", lambda recipe: recipe.encoding.crop == 0.8),
        ("encoding.caption_prompts=true", lambda recipe: recipe.encoding.caption_prompts),
        ("text_share=0.25", lambda recipe: recipe.text_share == 0.25),
        ("save_every=None", lambda recipe: recipe.save_every is None),
        ("init_from=runs/one", lambda recipe: recipe.init_from == "runs/one"),
        ("data=text:a.txt,chat:b.jsonl", lambda recipe: recipe.data == ("text:a.txt", "chat:b.jsonl")),
        ("modules.vocabulary=500", lambda recipe: recipe.modules.vocabulary == 500),
    ],
)
def test_a_setting_becomes_what_the_field_holds(setting: str, read) -> None:
    assert read(override(lesson(), [setting]))


def test_settings_that_need_each_other_may_come_in_any_order() -> None:
    recipe = override(lesson(batch=32, micro_batch=32), ["batch=4", "micro_batch=2"])
    assert (recipe.batch, recipe.micro_batch) == (4, 2)


def test_samples_or_tokens_make_a_step() -> None:
    assert override(paper.pretrain(), ["batch=48", "micro_batch=32"]).batch == 48  # packed, so no multiple is needed
    tokens = override(lesson(), ["batch=none", "batch_tokens=9000"])
    assert (tokens.batch, tokens.batch_tokens) == (None, 9000)


def test_the_last_of_two_settings_counts_and_leave_the_recipe_as_it_was() -> None:
    before = lesson()
    assert override(before, ["steps=7", "steps=8", "batch=2"]) == replace(before, steps=8, batch=2)
    assert before == lesson()
    with pytest.raises(FrozenInstanceError):
        before.steps = 1


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("stpes=7", "Recipe has no field 'stpes'; it has name, modules, trainable, .*steps, batch"),
        ("lr=1", r"Recipe has no field 'lr' of its own; write optimizer\.lr$"),
        ("vision=frozen", r"write modules\.vision or trainable\.vision$"),
        ("optimizer.rate=1", "Optimizer has no field 'rate'; it has lr, weight_decay"),
        ("steps.lr=1", "steps is a plain value and has no field 'lr'"),
        ("optimizer=1", "optimizer has parts; set one of optimizer.lr, "),
        ("steps=many", "unable to parse string as an integer; got 'many'"),
        ("steps=1.5", "got '1.5'"),
        ("trainable.language=half", "'frozen', 'lora', 'last' or 'full'; got 'half'"),
        ("optimizer.rates.sight=1", "Rates has no field 'sight'; it has vision, abstractor, language"),
        ("optimizer.rates.vision=0", r"optimizer\.rates\.vision is 0\.0; it must be above 0"),
        ("optimizer.lr=-1", r"optimizer\.lr is -1\.0; it must be above 0"),
        ("trackers=tensorbroad", "'tensorboard', 'trackio' or 'wandb'"),
        ("optimizer.betas=0.9", "got '0.9'"),
        ("precision=fp8", "'fp32' or 'bf16'; got 'fp8'"),
        ("steps", "expected FIELD=VALUE"),
        ("batch=3", "batch 3 is no multiple of micro_batch 2"),
        ("steps=0", "steps is 0; it must be 1 or more"),
        ("keep_checkpoints=0", "keep_checkpoints is 0; it must be 1 or more"),
        ("save_every=0", "save_every is 0; it must be 1 or more, or none"),
        ("encoding.max_tokens=1", "max_tokens is 1; it must be 2 or more"),
        ("encoding.pack=100", r"encoding\.pack is 100; it must be encoding\.max_tokens, 256, or more"),
        ("encoding.crop=0", r"encoding\.crop is 0\.0; it must be above 0 and at most 1, or none"),
        ("encoding.crop=1.1", r"encoding\.crop is 1\.1; it must be above 0 and at most 1, or none"),
        ("text_share=1", r"text_share is 1\.0; it must be between 0 and 1, or none"),
        ("batch_tokens=0", "batch_tokens is 0; it must be 1 or more, or none"),
        ("steps=none", "steps and epochs are both none; exactly one of them must say how long the run is"),
        ("epochs=0", r"epochs is 0\.0; it must be above 0, or none"),
        ("threads=0", "threads is 0; it must be 1 or more, or none"),
        ("clip=-1", r"clip is -1\.0; it must be above 0, or none"),
        ("clip=0", r"clip is 0\.0; it must be above 0, or none"),
        ("lora.rank=0", r"lora\.rank is 0; it must be 1 or more"),
        ("lora.dropout=1", r"lora\.dropout is 1\.0; it must be 0 or more and below 1"),
        ("optimizer.betas=[0.9,1]", r"optimizer\.betas is \(0\.9, 1\.0\); both must be 0 or more and below 1"),
        ("optimizer.eps=0", r"optimizer\.eps is 0\.0; it must be above 0"),
        ("optimizer.weight_decay=-1", r"optimizer\.weight_decay is -1\.0; it must be 0 or more"),
        ("schedule.warmup_steps=-1", r"schedule\.warmup_steps is -1; it must be 0 or more"),
        ("schedule.min_lr=-1", r"schedule\.min_lr is -1\.0; it must be 0 or more"),
        ("optimizer.lr=1e-9 schedule.min_lr=1e-8", r"schedule\.min_lr is 1e-08; it must be at most optimizer\.lr, 1e-09"),
        ("optimizer.lr=nan", r"optimizer\.lr is nan; it must be a number"),
        ("clip=nan", "clip is nan; it must be a number"),
        ("lora.alpha=0", r"lora\.alpha is 0; it must be 1 or more"),
        ("patience=-1", "patience is -1; it must be 0 or more"),
        ("rollbacks=-1", "rollbacks is -1; it must be 0 or more"),
        ("order_in_memory=-1", "order_in_memory is -1; it must be 0 or more"),
        ("max_bad_share=5", r"max_bad_share is 5\.0; it must be between 0 and 1"),
        ("spike=0.5", r"spike is 0\.5; it must be above 1, or none"),
        ("tflops=0", r"tflops is 0\.0; it must be above 0, or none"),
        ("grace_seconds=0", r"grace_seconds is 0\.0; it must be above 0, or none"),
        ("workers=-1", "workers is -1; it must be 0 or more"),
        ("seed=-1", "seed is -1; it must be 0 or more"),
        ("seed=9223372036854775808", r"seed is 9223372036854775808; it must be below 2\*\*63"),  # PyTorch's traceback before
        ("epochs=inf", "epochs is inf; it must be a finite number"),
        ("optimizer.lr=inf", r"optimizer\.lr is inf; it must be a finite number"),
        ("modules.vocabulary=0", r"modules\.vocabulary is 0; it must be 1 or more, or none"),
        ("name=", "name is ''; it must be a word"),  # the run took runs/ itself for its folder
        ("batch=none", "batch and batch_tokens are none; one of them must say how large a step is"),
    ],
)
def test_a_wrong_setting_is_told_with_what_would_be_right(setting: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        override(lesson(), setting.split(" "))
    assert setting.split(" ")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("lora.rank=16", "nothing learns by LoRA here; set trainable.language=lora too"),
        ("optimizer.rates.language=1e-5", "language is frozen here and has no rate; set trainable.language too"),
    ],
)
def test_a_setting_without_an_effect_is_told(setting: str, told: str) -> None:
    frozen = lesson(trainable=Trainable("full", "full", "frozen"))
    adapted = replace(frozen, trainable=Trainable("full", "full", "lora"))
    with pytest.raises(UserError, match=re.escape(f"--set {setting}: {told}")):
        check_used([frozen, frozen], ["steps=2", setting])
    check_used([frozen, adapted], [setting])
    check_used([frozen], ["optimizer.rates.language=none"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'; it must be one of fp32, bf16"),
        ({"trackers": ("wandb", "wanbd")}, "trackers is 'wanbd'; it must be one of tensorboard, trackio, wandb"),
        (
            {"trainable": Trainable("Full", "full", "lora")},
            "trainable.vision is 'Full'; it must be one of frozen, lora, last, ",
        ),
        ({"encoding": Encoding(256, learn="answer")}, "encoding.learn is 'answer'; it must be one of "),
    ],
)
def test_a_word_that_python_let_pass_is_told_too(change: dict, told: str) -> None:
    """Taken for one of the others it would train something else in silence."""
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        replace(lesson(), **change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 7.5}, "steps is 7.5; it must be int | None"),
        ({"steps": "7"}, "steps is '7'; it must be int | None"),
        ({"compile": 1}, "compile is 1; it must be bool"),
        ({"data": "scenes:text"}, "data is 'scenes:text'; it must be tuple[str, ...]"),  # its letters were the sources
        ({"trackers": "wandb"}, "trackers is 'wandb'; it must be tuple["),
        ({"optimizer": {"lr": 1e-3}}, "optimizer is {'lr': 0.001}; it must be "),
        ({"optimizer": replace(lesson().optimizer, lr="1e-3")}, "optimizer.lr is '1e-3'; it must be float"),
        ({"optimizer": replace(lesson().optimizer, betas=(0.9,))}, "optimizer.betas is (0.9,); it must be tuple[float, float]"),
        ({"modules": replace(lesson().modules, config=7)}, "modules.config is 7; it must be "),
    ],
)
def test_a_value_of_another_type_is_told_too(change: dict, told: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        replace(lesson(), **change)


def test_a_value_that_recipe_json_writes_alike_may_be_given() -> None:
    made = replace(lesson(), data=["scenes:text"], init_from=Path("runs/one"), clip=1)
    alike = replace(lesson(), data=("scenes:text",), init_from="runs/one", clip=1.0)
    assert as_json(made) == as_json(alike)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learners.language=full", "learners is now called trainable; write trainable.language"),
        ("start=runs/one", "start is now called init_from; write init_from"),
        ("grace=3", "grace is now called grace_seconds; write grace_seconds"),
        ("silence_seconds=3", "silence_seconds is now called process_timeout; write process_timeout"),
        ("optimizer.warmup_steps=3", r"optimizer\.warmup_steps is now called schedule\.warmup_steps; write schedule\.warmup_"),
        ("optimizer.min_lr=0", r"optimizer\.min_lr is now called schedule\.min_lr; write schedule\.min_lr"),
        ("optimizer.clip=none", r"optimizer\.clip is now called clip; write clip"),
    ],
)
def test_an_old_name_is_told_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(UserError, match=f"^--set {re.escape(old)}: {new}"):
        override(lesson(), [old])


def test_of_steps_and_epochs_the_one_that_is_set_counts() -> None:
    by_epochs = override(lesson(), ["epochs=2.5"])
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2.5)
    by_steps = override(by_epochs, ["steps=7"])
    assert (by_steps.steps, by_steps.epochs) == (7, None)
    with pytest.raises(UserError, match="steps and epochs are both given"):
        override(lesson(), ["steps=7", "epochs=2"])


@pytest.mark.parametrize(
    ("who", "fits"),
    [
        (("full", "full", "frozen"), True),
        (("frozen", "frozen", "lora"), True),
        (("frozen", "full", "frozen"), False),
        (("full", "frozen", "lora"), False),
        (("frozen", "frozen", "last"), False),
    ],
)
def test_in_fp32_nothing_in_half_the_memory_passes_on_to_what_learns(who: tuple[Tuning, Tuning, Tuning], fits: bool) -> None:
    recipe = replace(lesson(*who), precision="bf16", frozen_bf16=True)
    if fits:
        assert override(recipe, ["precision=fp32"]).frozen_bf16
        return
    with pytest.raises(UserError, match=r"precision=fp32 and frozen_bf16: .*; set frozen_bf16=false"):
        override(recipe, ["precision=fp32"])
    assert override(recipe, ["precision=fp32", "frozen_bf16=false"]).precision == "fp32"


def test_written_down_it_holds_every_size_of_the_model() -> None:
    written = as_json(paper.pretrain())
    assert written["modules"]["config"]["text_config"]["hidden_size"] == 4096
    assert written["optimizer"]["betas"] == [0.9, 0.98]
    assert written == as_json(paper.pretrain())
