"""The other end-to-end paradigms at a laptop's size, beside `tiny`'s mPLUG-Owl: its foundation modules, their own schedules.

Steps and batches are those of `paradigms`, by the factors that make the paper's stages `tiny`'s: 50,000 steps of 4,096 pairs
to 4,000 of 32, and 2,000 of 256 to 1,000 of 32. Rates, decay and averages are `tiny`'s, for none of a large model's fits a
small one; a language model that learns in full has a third of them. Nothing was tuned for one paradigm.

Each paradigm's kinds of data are the drawn world's nearest. Kosmos-1's language model begins with `tiny`'s, not from scratch.
"""

from dataclasses import replace

from mplug_owl.data.encode import Encoding
from mplug_owl.model.build import Modules
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.recipes import paper, paradigms, tiny
from mplug_owl.train.recipe import Rates, Recipe, Schedule, Trainable

CAPTIONS = ("scenes:captions@1", "scenes:reading@1")
FULL_LANGUAGE = Rates(language=5e-4)


def qformer_owl_tiny() -> MplugOwlConfig:
    """BLIP-2's: four layers, of which the first and the third look at the picture. As many queries as the abstractor's."""
    return _with_connector(connector="qformer", num_hidden_layers=4)


def linear_owl_tiny() -> MplugOwlConfig:
    """LLaVA's: every vision token is a language position."""
    return _with_connector(connector="linear")


def resampler_owl_tiny() -> MplugOwlConfig:
    """Kosmos-1's, of the abstractor's sizes."""
    return _with_connector(connector="resampler")


def _with_connector(**fields: object) -> MplugOwlConfig:
    config = tiny.owl_tiny().to_dict()
    connector = {**config["visual_abstractor_config"], **fields}
    return MplugOwlConfig.from_dict({**config, "visual_abstractor_config": connector})


QFORMER: Modules = replace(tiny.OWL_TINY, config=qformer_owl_tiny)
LINEAR: Modules = replace(tiny.OWL_TINY, config=linear_owl_tiny)
RESAMPLER: Modules = replace(tiny.OWL_TINY, config=resampler_owl_tiny)


def blip2_first() -> Recipe:
    """BLIP-2, first step: the Q-Former learns from pairs."""
    recipe = replace(
        tiny.pretrain(),
        name="tiny_paradigms.blip2_first",
        modules=QFORMER,
        objective="blip2",
        trainable=Trainable(vision="frozen", abstractor="full", language="frozen"),
    )
    return _as_long(recipe, paradigms.blip2_first())


def blip2_second() -> Recipe:
    """BLIP-2, second step: the Q-Former learns on."""
    recipe = replace(
        blip2_first(), name="tiny_paradigms.blip2_second", objective="generation", init_from="runs/tiny_paradigms.blip2_first"
    )
    return _as_long(recipe, paradigms.blip2_second())


def minigpt4_pretrain() -> Recipe:
    """MiniGPT-4, stage 1: a linear layer learns."""
    recipe = replace(
        blip2_second(),
        name="tiny_paradigms.minigpt4_pretrain",
        trainable=Trainable(vision="frozen", abstractor="last", language="frozen"),
        init_from="runs/tiny_paradigms.blip2_second",
    )
    return _as_long(recipe, paradigms.minigpt4_pretrain())


def minigpt4_instruct() -> Recipe:
    """MiniGPT-4, stage 2: the same layer learns on.

    From captions that are asked for, in the place of its long descriptions.
    """
    recipe = replace(
        minigpt4_pretrain(),
        name="tiny_paradigms.minigpt4_instruct",
        encoding=Encoding(max_tokens=128, caption_prompts=True),
        data=("scenes:captions",),
        init_from="runs/tiny_paradigms.minigpt4_pretrain",
    )
    return _as_long(recipe, paradigms.minigpt4_instruct())


def llava_pretrain() -> Recipe:
    """LLaVA, stage 1: one linear layer learns."""
    recipe = replace(
        tiny.pretrain(),
        name="tiny_paradigms.llava_pretrain",
        modules=LINEAR,
        trainable=Trainable(vision="frozen", abstractor="full", language="frozen"),
        encoding=Encoding(max_tokens=128, caption_prompts=True),
    )
    return _as_long(recipe, paradigms.llava_pretrain())


def llava_instruct() -> Recipe:
    """LLaVA, stage 2: f_L learns in full with it."""
    recipe = replace(
        tiny.instruct(),
        name="tiny_paradigms.llava_instruct",
        modules=LINEAR,
        trainable=Trainable(vision="frozen", abstractor="full", language="full"),
        optimizer=replace(tiny.pretrain().optimizer, rates=FULL_LANGUAGE),
        data=("scenes:chats",),
        init_from="runs/tiny_paradigms.llava_pretrain",
    )
    return _as_long(recipe, paradigms.llava_instruct())


def kosmos1_pretrain() -> Recipe:
    """Kosmos-1: f_L learns in full, and to see.

    Of its tokens 0.5 M a step are text and 0.7 M come with pictures: here one sample of text, which is longer, to four.
    """
    recipe = replace(
        tiny.pretrain(),
        name="tiny_paradigms.kosmos1_pretrain",
        modules=RESAMPLER,
        trainable=Trainable(vision="last", abstractor="full", language="full"),
        encoding=Encoding(max_tokens=384, learn="everything"),
        optimizer=replace(tiny.pretrain().optimizer, rates=FULL_LANGUAGE),
        data=("scenes:captions@2", "scenes:reading@2", "scenes:text@1"),
    )
    return _as_long(recipe, paradigms.kosmos1_pretrain())


def kosmos1_instruct() -> Recipe:
    """Kosmos-1, tuning: instructions in text alone."""
    recipe = replace(
        tiny.instruct(),
        name="tiny_paradigms.kosmos1_instruct",
        modules=RESAMPLER,
        trainable=kosmos1_pretrain().trainable,
        optimizer=kosmos1_pretrain().optimizer,
        encoding=replace(tiny.instruct().encoding, pictures=False),
        data=("scenes:text",),
        init_from="runs/tiny_paradigms.kosmos1_pretrain",
    )
    return _as_long(recipe, paradigms.kosmos1_instruct())


def _as_long(recipe: Recipe, theirs: Recipe) -> Recipe:
    """The recipe with steps, warm-up and batch of a paradigm's own, by the factors between the paper's stage and tiny's."""
    first = theirs.name.endswith(("_first", "_second", "_pretrain"))
    large, small = (paper.pretrain_appendix(), tiny.pretrain()) if first else (paper.instruct(), tiny.instruct())
    longer = (small.steps or 0) / (large.steps or 1)
    samples = theirs.batch or (large.batch or 0) * (theirs.batch_tokens or 0) / (paper.pretrain().batch_tokens or 1)
    batch = max(1, round(samples * (small.batch or 0) / (large.batch or 1)))
    steps, warmup = round((theirs.steps or 0) * longer), round(theirs.schedule.warmup_steps * longer)
    most = batch if recipe.objective == "blip2" else small.micro_batch  # a pass's pairs are one another's wrong ones
    micro = next(size for size in range(min(batch, most), 0, -1) if batch % size == 0)
    schedule = Schedule(warmup, recipe.optimizer.lr * theirs.schedule.min_lr / theirs.optimizer.lr)
    return replace(recipe, steps=steps, schedule=schedule, batch=batch, micro_batch=micro)
