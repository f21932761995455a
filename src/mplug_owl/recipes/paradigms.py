"""The other end-to-end paradigms that the paper compares itself with, beside it: who learns, through which connector, how fast.

All see by ViT-L/14 and, but for Kosmos-1, speak by LLaMA-7B, as mPLUG-Owl does, so that a comparison is one of paradigms and
not of parts. A number with a source is that paper's or its released code's; whatever a recipe does not mention is mPLUG-Owl's.
"""

from dataclasses import replace

from mplug_owl.data.encode import Encoding
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.recipes import paper
from mplug_owl.train.recipe import Optimizer, Recipe, Schedule, Trainable


def qformer_owl() -> MplugOwlConfig:
    """BLIP-2's Q-Former: BERT-base with 32 queries, looking at the picture in every second layer (its section 3.1)."""
    config = paper.owl_7b().to_dict()
    bert = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return MplugOwlConfig(
        vision_config=config["vision_config"],
        text_config=config["text_config"],
        visual_abstractor_config={"connector": "qformer", **bert},
        num_query_tokens=32,
    )


def linear_owl() -> MplugOwlConfig:
    """LLaVA's linear: every vision token is a language position, 257 of them; LLaVA leaves the class token out."""
    config = paper.owl_7b().to_dict()
    return MplugOwlConfig(
        vision_config=config["vision_config"],
        text_config=config["text_config"],
        visual_abstractor_config={"connector": "linear"},
    )


def kosmos1_owl() -> MplugOwlConfig:
    """Kosmos-1's language model of 1.3 B (its sizes; a GPT-NeoX for want of Magneto and xPos) and a resampler.

    The resampler's sizes, which the paper does not give, are the abstractor's.
    """
    return MplugOwlConfig(
        visual_abstractor_config={"connector": "resampler"},
        text_config={
            "model_type": "gpt_neox",
            "vocab_size": 64_007,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "rotary_pct": 1.0,
            "use_parallel_residual": False,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    )


QFORMER = replace(paper.OWL_7B, config=qformer_owl)
LINEAR = replace(paper.OWL_7B, config=linear_owl)
KOSMOS1 = Modules(kosmos1_owl, vision="openai/clip-vit-large-patch14", vocabulary=64_007)


def blip2_first() -> Recipe:
    """BLIP-2, first step: the Q-Former learns from pairs.

    arXiv 2301.12597, section 3.2: image-text contrast, matching with hard negatives and grounded generation, without a language
    model. Its contrast compares the pairs of a whole step, ours those of a forward pass; its start from BERT is not done here.
    """
    return replace(
        paper.pretrain(),
        name="paradigms.blip2_first",
        modules=QFORMER,
        objective="blip2",
        trainable=Trainable(vision="frozen", abstractor="full", language="frozen"),
        encoding=replace(paper.pretrain().encoding, pack=None),  # a packed row would part no pairs
        optimizer=Optimizer(lr=1e-4, weight_decay=0.05, betas=(0.9, 0.98)),  # section 3.4
        schedule=Schedule(warmup_steps=2000),  # section 3.4
        steps=250_000,  # section 3.4
        batch=2320,  # section 3.4, for ViT-L
        batch_tokens=None,
        micro_batch=80,  # what an H200 holds by owl plan
    )


def blip2_second() -> Recipe:
    """BLIP-2, second step: the Q-Former learns on.

    arXiv 2301.12597, section 3.4: now between two frozen models.
    """
    return replace(
        paper.pretrain(),
        name="paradigms.blip2_second",
        modules=QFORMER,
        init_from="runs/paradigms.blip2_first",
        trainable=Trainable(vision="frozen", abstractor="full", language="frozen"),
        optimizer=Optimizer(lr=1e-4, weight_decay=0.05, betas=(0.9, 0.98)),  # section 3.4
        schedule=Schedule(warmup_steps=2000, min_lr=5e-5),  # section 3.4
        steps=80_000,  # section 3.4
        batch=1920,  # section 3.4, for OPT
        batch_tokens=None,
    )


def llava_pretrain() -> Recipe:
    """LLaVA, stage 1: one linear layer learns.

    arXiv 2304.08485: from 595 thousand captions.
    """
    return replace(
        paper.pretrain(),
        name="paradigms.llava_pretrain",
        modules=LINEAR,
        trainable=Trainable(vision="frozen", abstractor="full", language="frozen"),
        # It shows whole pictures, and asks for captions in one of several sentences (section 4.2).
        encoding=replace(paper.pretrain().encoding, crop=None, caption_prompts=True),
        # Rates, batches, epochs, no decay and 3 % of warm-up are its own. It says Adam, so Adam's usual averages.
        optimizer=Optimizer(lr=2e-3, weight_decay=0.0, betas=(0.9, 0.999)),
        schedule=Schedule(warmup_steps=139),
        steps=4648,  # one epoch of 595 K
        batch=128,
        batch_tokens=None,
        micro_batch=16,
    )


def llava_instruct() -> Recipe:
    """LLaVA, stage 2: f_L learns in full with it."""
    return replace(
        paper.instruct(),
        name="paradigms.llava_instruct",
        modules=LINEAR,
        trainable=Trainable(vision="frozen", abstractor="full", language="full"),
        encoding=Encoding(max_tokens=2048),  # released code
        optimizer=Optimizer(lr=2e-5, weight_decay=0.0, betas=(0.9, 0.999)),
        schedule=Schedule(warmup_steps=444),
        steps=14_812,  # three epochs of 158 K
        batch=32,
        micro_batch=4,
        text_share=None,  # all of it has pictures
        gradient_checkpointing=True,  # its own
    )


def minigpt4_pretrain() -> Recipe:
    """MiniGPT-4, stage 1: a linear layer learns.

    arXiv 2304.10592: the Q-Former of BLIP-2 stays as it is, the linear layer after it learns. It is initialised from a run of
    paradigms.blip2_second.
    """
    return replace(
        paper.pretrain(),
        name="paradigms.minigpt4_pretrain",
        modules=QFORMER,
        init_from="runs/paradigms.blip2_second",  # a frozen Q-Former has to have learned before
        trainable=Trainable(vision="frozen", abstractor="last", language="frozen"),
        optimizer=Optimizer(lr=1e-4, weight_decay=0.05, betas=(0.9, 0.999)),  # released code
        schedule=Schedule(warmup_steps=5000, min_lr=8e-5),  # released code
        steps=20_000,  # section 3.1
        batch=256,  # section 3.1
        batch_tokens=None,
    )


def minigpt4_instruct() -> Recipe:
    """MiniGPT-4, stage 2: the same layer learns on.

    From 3,500 long, curated descriptions.
    """
    return replace(
        minigpt4_pretrain(),
        name="paradigms.minigpt4_instruct",
        init_from="runs/paradigms.minigpt4_pretrain",
        encoding=paper.instruct().encoding,
        # Released code, which runs for 1,000 steps where the paper says 400.
        optimizer=Optimizer(lr=3e-5, weight_decay=0.05, betas=(0.9, 0.999)),
        schedule=Schedule(warmup_steps=200, min_lr=1e-5),
        steps=400,  # section 3.3
        batch=12,  # section 3.3
        micro_batch=12,
        save_every=200,
    )


def kosmos1_pretrain() -> Recipe:
    """Kosmos-1: f_L learns from scratch, and to see.

    arXiv 2302.14045: a language model from scratch, with it a resampler and CLIP's last layer.
    """
    return replace(
        paper.pretrain(),
        name="paradigms.kosmos1_pretrain",
        modules=KOSMOS1,
        trainable=Trainable(vision="last", abstractor="full", language="full"),
        encoding=Encoding(max_tokens=2048, learn="everything", pack=2048),
        # Its training setup, where the rate goes down in a line; ours goes down a cosine.
        optimizer=Optimizer(lr=2e-4, weight_decay=0.01, betas=(0.9, 0.98)),
        schedule=Schedule(warmup_steps=375),
        steps=300_000,  # its training setup: 360 B tokens
        batch_tokens=592 * 2048,  # its 1.2 M
        micro_batch=8,
    )


def kosmos1_instruct() -> Recipe:
    """Kosmos-1, tuning: instructions in text alone.

    The same modules learn. The numbers are those of mPLUG-Owl's second stage.
    """
    return replace(
        paper.instruct(),
        name="paradigms.kosmos1_instruct",
        modules=KOSMOS1,
        init_from="runs/paradigms.kosmos1_pretrain",  # a language model made from scratch has to have learned before
        trainable=kosmos1_pretrain().trainable,
        encoding=replace(paper.instruct().encoding, pictures=False),
        text_share=None,  # all of it
    )
