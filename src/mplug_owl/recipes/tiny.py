"""The whole story at a laptop's size, in the drawn world: two foundation modules, then the paper's two stages.

`lookups` with `language` after it, and `vision`, stand in for downloading LLaMA and CLIP: one module has read about the world
and never seen it, the other has seen it and never spoken. `pretrain` and `instruct` join them as the paper does.
"""

from dataclasses import replace

from mplug_owl.data.encode import Encoding
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.scenes.things import PLACES, ROWS
from mplug_owl.train.recipe import LoRA, Optimizer, Recipe, Schedule, Trainable

VISION, LANGUAGE, VOCABULARY = 160, 192, 1280
# The order of the samples that owl-tiny and the demo's figures come from: a permutation of the world's million in memory.
EARLIER = 2**20


def owl_tiny() -> MplugOwlConfig:
    """4.8 M parameters. Weights start at 1 / sqrt(width): the usual 0.02 starves a narrow model."""
    return MplugOwlConfig(
        vision_config={
            "model_type": "mplug_owl_vision_model",
            "image_size": 112,
            "patch_size": 16,
            "stem_channels": (32, 64, 96),  # letters stand anywhere, and a patch alone would learn each at every offset
            "hidden_size": VISION,
            "intermediate_size": 4 * VISION,
            "num_hidden_layers": 4,
            "num_attention_heads": 5,
            "initializer_range": VISION**-0.5,
            "position_initializer_range": 2.0,  # louder than what patches show, which starts at 0.8
        },
        visual_abstractor_config={
            "hidden_size": VISION,
            "intermediate_size": 2 * VISION,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": VISION**-0.5,
        },
        text_config=_convolving_text(layers=6),
        num_query_tokens=40,  # the facts of a full scene are as many tokens
        initializer_range=VISION**-0.5,
    )


def llama_owl_tiny() -> MplugOwlConfig:
    """The same with LLaMA's layers, which can be packed. The original's layout has room for them, but not for the stem."""
    return MplugOwlConfig.from_dict({**owl_tiny().to_dict(), "text_config": _text(layers=6)})


def captioner() -> MplugOwlConfig:
    """The encoder with a small decoder of its own, which sees every patch and is thrown away when the encoder can see."""
    return MplugOwlConfig(
        vision_config=owl_tiny().vision_config,
        visual_abstractor_config={"connector": "linear", "initializer_range": VISION**-0.5},
        text_config=_text(layers=2),
        initializer_range=VISION**-0.5,
    )


def _text(layers: int) -> dict[str, object]:
    return {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": LANGUAGE,
        "intermediate_size": 768,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 1024,
        "initializer_range": LANGUAGE**-0.5,
        "tie_word_embeddings": True,
    }


def _convolving_text(layers: int) -> dict[str, object]:
    """LFM2's layers (arXiv 2511.23404), every second one a convolution.

    So a thing's colour, shape and place are together before attention looks for them. LLaMA's layers at this width never
    learned which place belongs to which thing; these learn it in 400 steps (docs/journal.md, 2026-11-25).
    """
    return {
        **_text(layers),
        "model_type": "lfm2",
        "layer_types": layers // 2 * ["conv", "full_attention"],
        "conv_L_cache": 6,  # a thing in words is five tokens with its comma: size, colour, shape, place
        "intermediate_size": 512,
        "block_auto_adjust_ff_dim": False,
    }


PHRASES = (*(cell for row in PLACES for cell in row), *ROWS)
FRESH = Modules(owl_tiny, vocabulary=VOCABULARY, phrases=PHRASES, alike=True)
CAPTIONER = Modules(captioner, vocabulary=VOCABULARY)
OWL_TINY = Modules(owl_tiny, vision="tiny-vision", language="tiny-language")
PACKABLE = Modules(llama_owl_tiny, vision="tiny-vision", vocabulary=VOCABULARY)  # in OWL_TINY's place where rows are packed


def lookups() -> Recipe:
    """Foundation f_L, its first lessons: lookups.

    A lookup asks which colour, shape, size or place one thing has.
    """
    return Recipe(
        name="tiny.lookups",
        modules=FRESH,
        trainable=Trainable(vision="frozen", abstractor="frozen", language="full"),
        encoding=Encoding(max_tokens=384, pictures=False, weigh="answers"),
        optimizer=Optimizer(lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98), muon=True),
        schedule=Schedule(warmup_steps=50, min_lr=1e-3),
        steps=600,
        batch=32,
        micro_batch=8,
        data=("scenes:lookups@19", "scenes:text@1"),  # text for the tokenizer, which has to know every word
        attention="eager",
        workers=0,
        order_in_memory=EARLIER,
        save_every=200,
    )


def language() -> Recipe:
    """Foundation f_L: it has read of the world only.

    It is initialised from a run of tiny.lookups, by `--from`.
    """
    first = lookups()
    return replace(
        first,
        name="tiny.language",
        schedule=replace(first.schedule, min_lr=0.0),
        steps=2600,
        batch=24,
        micro_batch=12,
        data=("scenes:text@4", "scenes:lookups@1"),
    )


def vision() -> Recipe:
    """Foundation f_V: an encoder learns by captioning.

    Captioners as vision encoders: arXiv 2306.07915.
    """
    return Recipe(
        name="tiny.vision",
        modules=CAPTIONER,
        trainable=Trainable(vision="full", abstractor="full", language="full"),
        encoding=Encoding(max_tokens=128),
        optimizer=Optimizer(lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98), muon=True),
        schedule=Schedule(warmup_steps=50),
        steps=7000,
        batch=32,
        micro_batch=32,
        data=("scenes:spelled",),
        attention="eager",
        workers=0,
        order_in_memory=EARLIER,
        save_every=500,
    )


def pretrain() -> Recipe:
    """Stage 1: f_V and f_K learn from captions."""
    return Recipe(
        name="tiny.pretrain",
        modules=OWL_TINY,
        trainable=Trainable(vision="full", abstractor="full", language="frozen"),
        encoding=Encoding(max_tokens=128),
        optimizer=Optimizer(lr=1.5e-3, weight_decay=0.01, betas=(0.9, 0.98), muon=True),
        schedule=Schedule(warmup_steps=30),
        steps=4000,
        batch=32,
        micro_batch=16,
        data=("scenes:captions@1", "scenes:reading@1"),
        attention="eager",
        workers=0,
        order_in_memory=EARLIER,
        save_every=500,
    )


def instruct() -> Recipe:
    """Stage 2: LoRA on f_L learns to answer."""
    return Recipe(
        name="tiny.instruct",
        modules=OWL_TINY,
        trainable=Trainable(vision="frozen", abstractor="frozen", language="lora"),
        lora=LoRA(rank=32, alpha=64, dropout=0.0, on="linear"),
        encoding=Encoding(max_tokens=384, weigh="answers"),
        optimizer=Optimizer(lr=2e-3, weight_decay=0.0, betas=(0.9, 0.98)),
        schedule=Schedule(warmup_steps=20),
        steps=1000,
        batch=32,
        micro_batch=8,
        data=("scenes:chats@1", "scenes:text@1"),
        attention="eager",
        workers=0,
        order_in_memory=EARLIER,
        save_every=500,
    )
