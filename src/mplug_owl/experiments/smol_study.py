"""Training and data once more with a language model that is not ours: SmolLM2-135M-Instruct, as owl-smol has it.

The data, the exam and the arms are those of `studies.py`. Captions alone teach a fresh f_K too little in the minutes that a
laptop has for a language model of this size. So stage 1 begins with owl-tiny's eyes, which learn the language model's words
first (`recipes/smol_words.py`), the same ones for all seeds. Where there is no stage 1, f_V is `tiny-vision`, f_K is fresh.
"""

from dataclasses import replace
from pathlib import Path

from mplug_owl.chat import ChatModel, OwlChatModel, load
from mplug_owl.errors import UserError
from mplug_owl.eval.graders.normalised import Contains
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.experiments import studies
from mplug_owl.experiments.studies import PICTURES, TEXT
from mplug_owl.experiments.study import Arm, Study
from mplug_owl.recipes import smol
from mplug_owl.train.recipe import Recipe, Schedule

WORDS = Path("runs/smol.words/model")
STAGE_2 = 120
QUESTIONS = 40
NOTES = (
    "The language model is SmolLM2-135M-Instruct. Stage 1 begins with owl-tiny's f_V and f_K's layers, which learned with "
    "another language model. f_K learns SmolLM2's words in 1,000 steps, the same for every seed, and then both learn from "
    f"captions and reading. Stage 2 is {STAGE_2} steps of 8.",
    "Where there is no stage 1, f_V is tiny-vision and f_K is fresh.",
    "An answer is correct where it contains the right one: a chat model without stage 2 answers in sentences.",
    "Minutes and FLOPs leave out owl-tiny's training and the words.",
)


def smol_study() -> Study:
    """Both stages or one, both kinds of instructions or one, with owl-smol's language model.

    Raises:
        UserError: f_K's words are not there.
    """
    if not WORDS.is_dir():
        raise UserError(
            f"{WORDS}: not there; python -m mplug_owl.recipes.smol_words {WORDS.parent} makes it in seven CPU minutes"
        )
    first, second = pretrain(), instruct()
    pictures = replace(second, name="study.smol_r3", data=(PICTURES,), text_share=None)
    text = replace(second, name="study.smol_r4", data=(TEXT,), text_share=None)
    fresh = replace(second, modules=replace(second.modules, vision="tiny-vision"))
    arms = (
        ("r1", "stage 1 alone", (first,)),
        ("r2", "stage 2 alone, f_K fresh", (fresh,)),
        ("r3", "stage 1, then stage 2 with pictures only", (first, pictures)),
        ("r4", "stage 1, then stage 2 of text alone", (first, text)),
        ("r5", "stage 1, then stage 2 of both kinds: the paper's recipe", (first, second)),
    )
    findings = (*studies.training().claims, *studies.data().claims)
    return Study(
        name="smol",
        words="Do the findings hold with a language model that is not ours?",
        arms=tuple(Arm(name, words, stages, in_bf16) for name, words, stages in arms),
        claims=tuple(claim for claim in findings if {claim.better, claim.worse} <= {name for name, _, _ in arms}),
        task=DrawnWorld(grader=Contains()),
        questions=QUESTIONS,
        notes=NOTES,
    )


def pretrain() -> Recipe:
    """owl-smol's stage 1."""
    return replace(smol.pretrain(), name="study.smol_pretrain", init_from=str(WORDS), threads=1)


def instruct() -> Recipe:
    """owl-smol's stage 2, shorter and on the studies' data: half of a step is text alone, learned word by word."""
    return replace(
        smol.instruct(),
        name="study.smol_instruct",
        steps=STAGE_2,
        schedule=Schedule(warmup_steps=10),
        data=(PICTURES, TEXT),
        text_share=0.5,
        text_distillation=False,
        threads=1,
    )


def in_bf16(folder: Path | None) -> ChatModel:
    """The trained owl with weights in bf16, as its language model's were while it learned."""
    if folder is None:
        raise ValueError("every arm of this study has a stage")
    return OwlChatModel(load(folder, dtype="bfloat16"))
