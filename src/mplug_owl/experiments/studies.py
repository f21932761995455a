"""The paper's ablations as studies, at a laptop's size: `training` (stages), `data` (what stage 2 learns from).

Lengths: stage 1 has 1,200 steps and stage 2 has 240, a third of owl-tiny's, so that three seeds fit into a night on two cores.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from mplug_owl.experiments.study import Arm, Claim, Study
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.recipes import tiny
from mplug_owl.train.recipe import LoRA, Recipe, Trainable

STAGE_1, STAGE_2 = 1200, 240
PICTURES, TEXT = "scenes:chats", "scenes:text"


def training() -> Study:
    """Which stages, who learns in them, and how large what learns is."""
    first, second = pretrain(), instruct()
    both = Arm("r5", "both stages: the paper's recipe", (first, second))
    seeing = Trainable(vision="full", abstractor="full", language="lora")
    joint = replace(
        second,
        name="study.joint",
        trainable=seeing,
        optimizer=first.optimizer,
        data=("scenes:captions@1", "scenes:reading@1", f"{PICTURES}@1", f"{TEXT}@1"),
        text_share=None,
        steps=STAGE_1 + STAGE_2,
    )
    stages = (
        Arm("r1", "stage 1 alone, as long as in r5", (first,)),
        Arm("r1-long", "stage 1 alone, with all steps of r5", (replace(first, steps=STAGE_1 + STAGE_2),)),
        Arm("r2", "stage 2 alone, as long as in r5", (second,)),
        Arm("r2-long", "stage 2 alone, with all steps of r5", (replace(second, steps=STAGE_1 + STAGE_2),)),
        Arm(
            "r2-abstractor",
            "stage 2 alone, with all steps of r5 and the abstractor learning",
            (replace(second, name="study.r2-abstractor", steps=STAGE_1 + STAGE_2, trainable=_abstractor_too()),),
        ),
        Arm("reversed", "stage 2 first, then stage 1", (second, first)),
        Arm("joint", "one stage of both stages' data in equal parts, f_V, f_K and LoRA learning", (joint,)),
        Arm("abstractor", "the abstractor learns in stage 2 too", (first, replace(second, trainable=_abstractor_too()))),
        Arm("frozen-vision", "f_V frozen in stage 1", (replace(first, trainable=_frozen_vision()), second)),
    )
    return Study(
        name="training",
        words="What does each stage bring, and how much does it matter who learns in it?",
        arms=(*stages, *_sizes(first, second), both),
        claims=(
            Claim("Both stages beat multimodal pretraining alone.", "r5", "r1"),
            Claim("The same with as many steps in all.", "r5", "r1-long"),
            Claim("Both stages beat instruction tuning alone.", "r5", "r2"),
            Claim("The same with as many steps in all.", "r5", "r2-long"),
        ),
    )


def data() -> Study:
    """What stage 2 learns from, after the same stage 1."""
    first, second = pretrain(), instruct()

    def shared(share: float) -> Arm:
        name = f"text-{100 * share:.0f}"
        return Arm(name, f"{share:.0%} of stage 2 is text alone", (first, replace(second, text_share=share)))

    pictures = replace(second, name="study.r3", data=(PICTURES,), text_share=None)
    text = replace(second, name="study.r4", data=(TEXT,), text_share=None)
    return Study(
        name="data",
        words="What do instructions with pictures bring, and what do those in words alone?",
        arms=(
            Arm("r1", "no stage 2", (first,)),
            Arm("r3", "stage 2 with pictures only, no text alone", (first, pictures)),
            shared(0.25),
            shared(0.75),
            Arm("r4", "stage 2 of text alone", (first, text)),
            Arm("r5", "both kinds, half and half: the paper's recipe", (first, second)),
        ),
        claims=(
            Claim("Tuning on text alone raises instruction understanding.", "r4", "r1", abilities=("instruction",)),
            Claim(
                "Multimodal tuning raises knowledge transfer and reasoning.", "r3", "r1", abilities=("knowledge", "reasoning")
            ),
            Claim("Multimodal data help tasks of text alone too.", "r5", "r4", condition="told in words"),
            Claim("Both kinds beat multimodal data alone.", "r5", "r3"),
            Claim("Both kinds beat text alone.", "r5", "r4"),
        ),
    )


def pretrain() -> Recipe:
    """owl-tiny's stage 1 in a study's length. One thread: what a cell computes must not depend on a machine's cores."""
    return replace(tiny.pretrain(), name="study.pretrain", steps=STAGE_1, threads=1)


def instruct() -> Recipe:
    """owl-tiny's stage 2 in a study's length, half of each step text alone, as the paper has it."""
    second = tiny.instruct()
    return replace(second, name="study.instruct", steps=STAGE_2, threads=1, data=(PICTURES, TEXT), text_share=0.5)


def _abstractor_too() -> Trainable:
    return Trainable(vision="frozen", abstractor="full", language="lora")


def _frozen_vision() -> Trainable:
    return Trainable(vision="frozen", abstractor="full", language="frozen")


def _sizes(first: Recipe, second: Recipe) -> list[Arm]:
    """Queries, layers of the abstractor, LoRA's rank and where it is; r5 has 40, 2, rank 32 and every linear layer."""
    arms = []
    for queries in (8, 16, 64):
        sized = partial(_with_config, partial(_config, num_query_tokens=queries))
        arms.append(Arm(f"queries-{queries}", f"{queries} queries, r5 has 40", tuple(map(sized, (first, second)))))
    for layers in (1, 4):
        sized = partial(_with_config, partial(_config, layers=layers))
        words = f"layers of the abstractor: {layers}, r5 has 2"
        arms.append(Arm(f"layers-{layers}", words, tuple(map(sized, (first, second)))))
    for name, words, lora in (
        ("rank-4", "LoRA of rank 4, r5 has 32", replace(second.lora, rank=4, alpha=8)),
        ("rank-128", "LoRA of rank 128, r5 has 32", replace(second.lora, rank=128, alpha=256)),
        ("attention", "LoRA on queries and values alone, as the paper has it", replace(second.lora, on="attention")),
        ("paper", "the paper's LoRA without its dropout: rank 8, alpha 32, on queries and values", LoRA(dropout=0.0)),
    ):
        arms.append(Arm(f"lora-{name}", words, (first, replace(second, lora=lora))))
    return arms


def _with_config(config: Callable[[], MplugOwlConfig], recipe: Recipe) -> Recipe:
    """The recipe with other sizes."""
    return replace(recipe, modules=replace(recipe.modules, config=config))


def _config(layers: int | None = None, **fields: Any) -> MplugOwlConfig:
    """owl-tiny's sizes, but for these."""
    values = tiny.owl_tiny().to_dict()
    if layers is not None:
        values["visual_abstractor_config"]["num_hidden_layers"] = layers
    return MplugOwlConfig.from_dict({**values, **fields})
