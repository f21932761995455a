"""The paper's two stages (arXiv 2304.14178v3), number by number.

Where its body and its appendix disagree both are here; where the text is silent the released code decides. "Ours" marks what
neither says, most of it a matter of speed. docs/reproduce.md has every number with its origin.
"""

from dataclasses import replace

from mplug_owl.data.encode import Encoding
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.train.recipe import LoRA, Optimizer, Recipe, Schedule, Trainable


def owl_7b() -> MplugOwlConfig:
    """ViT-L/14, 64 queries, LLaMA-7B: 7.123 B parameters. The config's own defaults are these sizes."""
    return MplugOwlConfig(text_config={"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})


OWL_7B = Modules(owl_7b, vision="openai/clip-vit-large-patch14", language="huggyllama/llama-7b")


def pretrain() -> Recipe:
    """Stage 1: f_V and f_K learn from captions.

    Multimodal pretraining against a frozen f_L, with the numbers of the paper's body.
    """
    encoding = Encoding(
        max_tokens=512,  # appendix
        pack=2048,  # ours: a row is four full samples or some twenty captions; twice as long, attention costs twice
        crop=0.9,  # ours: OpenCLIP's for captions; the released code's 0.5 may cut away what a caption tells
    )
    return Recipe(
        name="paper.pretrain",
        modules=OWL_7B,
        trainable=Trainable(vision="full", abstractor="full", language="frozen"),
        encoding=encoding,
        optimizer=Optimizer(lr=1e-4, weight_decay=0.1, betas=(0.9, 0.98)),  # section 3.1
        schedule=Schedule(warmup_steps=2000),  # section 3.1
        steps=50_000,  # body and appendix
        batch=None,  # tokens are counted instead
        batch_tokens=4096 * 512,  # 2.1 M (section 3.1)
        micro_batch=32,  # this and what follows: ours
        frozen_bf16=True,
        save_every=1000,
    )


def pretrain_appendix() -> Recipe:
    """Stage 1 with the numbers of the appendix.

    The appendix counts pairs where the body counts tokens.
    """
    return replace(
        pretrain(),
        name="paper.pretrain_appendix",
        optimizer=Optimizer(lr=2e-4, weight_decay=0.01, betas=(0.9, 0.98)),
        schedule=Schedule(warmup_steps=375),
        batch=4096,
        batch_tokens=None,
    )


def instruct() -> Recipe:
    """Stage 2: LoRA on f_L learns from instructions.

    Joint instruction tuning: text and pictures together, everything but LoRA frozen.
    """
    return Recipe(
        name="paper.instruct",
        modules=OWL_7B,
        trainable=Trainable(vision="frozen", abstractor="frozen", language="lora"),
        lora=LoRA(rank=8, alpha=32, dropout=0.05),  # released code; the text names no rank
        encoding=Encoding(max_tokens=1024, pack=2048),  # rows as in stage 1
        optimizer=Optimizer(lr=2e-5, weight_decay=1e-4, betas=(0.9, 0.999)),  # the paper, as all to text_share
        schedule=Schedule(warmup_steps=50),
        steps=2000,
        batch=256,
        text_share=0.5,  # 128 of text and 128 with pictures
        micro_batch=8,  # this and what follows: ours
        frozen_bf16=True,
        save_every=200,
    )


def instruct_with_abstractor() -> Recipe:
    """Stage 2 where the abstractor learns too.

    So say the paper's abstract and introduction. Its section 3 and every released script freeze the abstractor.
    """
    trainable = replace(instruct().trainable, abstractor="full")
    return replace(instruct(), name="paper.instruct_with_abstractor", trainable=trainable)


def owl_bloomz_7b() -> MplugOwlConfig:
    """The multilingual release: BLOOMZ-7B1 for f_L, whose norm of the embeddings is for words alone. 7.454 B parameters."""
    return MplugOwlConfig(
        text_config={
            "model_type": "bloom",
            "vocab_size": 250_880,
            "hidden_size": 4096,
            "n_layer": 30,
            "n_head": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
        }
    )


OWL_BLOOMZ_7B = Modules(owl_bloomz_7b, vision="openai/clip-vit-large-patch14", language="bigscience/bloomz-7b1")


def multilingual_pretrain() -> Recipe:
    """Stage 1 on BLOOMZ-7B.

    Its training was never described: the paper's numbers for LLaMA are our choice.
    """
    encoding = replace(pretrain().encoding, pack=None)  # BLOOM lets packed conversations see one another
    return replace(pretrain(), name="paper.multilingual_pretrain", modules=OWL_BLOOMZ_7B, encoding=encoding)


def multilingual_instruct() -> Recipe:
    """Stage 2 on BLOOMZ-7B.

    LoRA is on query_key_value, as an author says: github.com/X-PLUG/mPLUG-Owl, issues 84 and 131. Rank and learning rate are
    LLaMA's, which is our choice.
    """
    encoding = replace(instruct().encoding, pack=None)
    return replace(instruct(), name="paper.multilingual_instruct", modules=OWL_BLOOMZ_7B, encoding=encoding)
