"""The whole story at a laptop's size: every module made from scratch, three stages of minutes.

Stage 0 stands in for downloading a language model: it learns the text alone and never sees a picture.
"""

from mplug_owl.data.loader import Encoding
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.train.recipe import AdamW, Learners, LoRA, Recipe


def owl_tiny() -> MplugOwlConfig:
    """About 4 M parameters. Weights start at 1 / sqrt(width): the usual 0.02 starves a narrow model."""
    vision, language = 128, 192
    return MplugOwlConfig(
        vision_config={
            "model_type": "mplug_owl_vision_model",
            "image_size": 112,
            "patch_size": 14,
            "hidden_size": vision,
            "intermediate_size": 4 * vision,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "initializer_range": vision**-0.5,
            "position_initializer_range": 2.0,  # what patches show starts at about 2.1
        },
        visual_abstractor_config={
            "hidden_size": vision,
            "intermediate_size": 2 * vision,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": vision**-0.5,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": language,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": 1024,
            "initializer_range": language**-0.5,
            "tie_word_embeddings": True,
        },
        num_query_tokens=16,
        initializer_range=vision**-0.5,
    )


OWL_TINY = Modules(owl_tiny, vocabulary=2048)


def language() -> Recipe:
    """Stage 0: the language model learns to write, from text alone."""
    return Recipe(
        name="tiny.language",
        modules=OWL_TINY,
        learners=Learners(vision="frozen", abstractor="frozen", language="full"),
        encoding=Encoding(max_tokens=256, learn="everything", pictures=False),
        optimizer=AdamW(lr=2e-3, warmup_steps=20, weight_decay=0.01, betas=(0.9, 0.98)),
        steps=300,
        batch=32,
        micro_batch=32,
        workers=0,
        save_every=100,
    )


def pretrain() -> Recipe:
    """Stage 1: f_V and f_K learn from captions against the frozen language model."""
    return Recipe(
        name="tiny.pretrain",
        modules=OWL_TINY,
        learners=Learners(vision="full", abstractor="full", language="frozen"),
        encoding=Encoding(max_tokens=128),
        optimizer=AdamW(lr=1.5e-3, warmup_steps=30, weight_decay=0.01, betas=(0.9, 0.98)),
        steps=400,
        batch=32,
        micro_batch=32,
        workers=0,
        save_every=100,
    )


def instruct() -> Recipe:
    """Stage 2: LoRA on the language model learns to answer; what sees is frozen."""
    return Recipe(
        name="tiny.instruct",
        modules=OWL_TINY,
        learners=Learners(vision="frozen", abstractor="frozen", language="lora"),
        lora=LoRA(rank=16, alpha=32, dropout=0.0),
        encoding=Encoding(max_tokens=256),
        optimizer=AdamW(lr=3e-3, warmup_steps=20, weight_decay=0.0, betas=(0.9, 0.98)),
        steps=300,
        batch=32,
        micro_batch=32,
        workers=0,
        save_every=100,
    )
