"""The study of the paper's rivals: BLIP-2, MiniGPT-4, LLaVA, Kosmos-1 and mPLUG-Owl on the same foundation modules.

Each end-to-end paradigm is there twice. With the same budget its steps are as many as the FLOPs of mPLUG-Owl's stages pay for,
each of the two counted apart, of the same data in both. By its own schedule (`-own`) it has its own steps, batches and kinds of
data, scaled down as `recipes/tiny_paradigms.py` says. mPLUG-Owl's own schedule sets the budget, so it stands there once.
The three systems of systematic collaboration learn nothing; their captioner is the owl after its stage 1.
"""

from dataclasses import replace

from mplug_owl.experiments.experts.arms import collaborating
from mplug_owl.experiments.studies import PICTURES, STAGE_1, STAGE_2, TEXT, instruct, pretrain
from mplug_owl.experiments.study import Arm, Claim, Study
from mplug_owl.recipes import tiny, tiny_paradigms
from mplug_owl.train.plan import sample_flops
from mplug_owl.train.recipe import Recipe, Schedule

# Tokens of a sample beside its picture, and pictures: means of 1,024 samples of each source, as owl plan --data measures them.
SAMPLES = {
    "scenes:captions": (31.75, 1),
    "scenes:reading": (33.85, 1),
    PICTURES: (242.8, 1),
    TEXT: (210.9, 0),
}
NOTES = (
    "Same budget: BLIP-2's two steps, or whatever comes before instructions, cost the FLOPs of mPLUG-Owl's stage 1, and what "
    "learns from instructions those of its stage 2, by owl plan's count; everything after the foundation modules counts.",
    "-own: each paradigm's own steps, batches and kinds of data, by the factors that scale mPLUG-Owl down.",
    "The systems of experts have a detector that is a program written for the drawn world: it has nothing to learn and knows "
    "each colour and shape, which no detector of the real world does.",
)


def paradigms() -> Study:
    """Five end-to-end paradigms on the same foundation modules, twice, beside three systems that learn nothing."""
    owl = Arm("mplug-owl", "f_V and f_K learn, then LoRA on f_L", (pretrain(), instruct()))
    published = {"blip2": "BLIP-2", "minigpt4": "MiniGPT-4", "llava": "LLaVA"}  # what the paper compares itself with
    return Study(
        name="paradigms",
        words="Which paradigm sees best: on the same foundation modules, for the same FLOPs, and by its own schedule?",
        arms=(*_same_budget(), *_own_schedules(), *collaborating(pretrain()), owl),
        claims=(
            *(
                Claim(f"mPLUG-Owl beats {name} by its own schedule.", "mplug-owl", f"{arm}-own")
                for arm, name in published.items()
            ),
            *(Claim(f"mPLUG-Owl beats {name} with the same budget.", "mplug-owl", arm) for arm, name in published.items()),
            Claim("mPLUG-Owl beats MM-REACT.", "mplug-owl", "mm-react"),
        ),
        notes=NOTES,
    )


def _same_budget() -> tuple[Arm, ...]:
    """Stage 1 learns from captions and stage 2 from instructions, where what learns can learn from text with text, too.

    A language model that is frozen learns nothing from text alone, so BLIP-2's and MiniGPT-4's stage 2 has none. Over 40 lines:
    an arm after the other.
    """
    one, two = stage_flops(pretrain()), stage_flops(instruct())
    captions = pretrain().data
    qformer, linear, kosmos = (
        tiny_paradigms.blip2_second(),
        tiny_paradigms.minigpt4_pretrain(),
        tiny_paradigms.kosmos1_pretrain(),
    )

    def first(recipe: Recipe, share: float = 1.0) -> Recipe:
        return _paid(replace(recipe, data=captions, encoding=pretrain().encoding), pretrain(), share * one)

    def then(recipe: Recipe, name: str, text: bool) -> Recipe:
        kinds = {"data": (PICTURES, TEXT), "text_share": 0.5} if text else {"data": (PICTURES,), "text_share": None}
        return _paid(replace(recipe, name=name, encoding=instruct().encoding, **kinds), instruct(), two)

    return (
        Arm(
            "blip2",
            "the Q-Former learns from pairs, then before f_L: half of stage 1's FLOPs each",
            (first(tiny_paradigms.blip2_first(), 0.5), first(qformer, 0.5), then(qformer, "blip2_instruct", text=False)),
        ),
        Arm(
            "minigpt4",
            "BLIP-2's two steps, two fifths of stage 1's FLOPs each, then its last linear alone",
            (
                first(tiny_paradigms.blip2_first(), 0.4),
                first(qformer, 0.4),
                first(linear, 0.2),
                then(linear, "minigpt4_instruct", text=False),
            ),
        ),
        Arm(
            "llava",
            "a linear learns, then f_L in full with it",
            (first(tiny_paradigms.llava_pretrain()), then(tiny_paradigms.llava_instruct(), "llava_instruct", text=True)),
        ),
        Arm(
            "kosmos1",
            "f_L in full, a resampler and f_V's last layer learn in both stages",
            (first(kosmos), then(kosmos, "kosmos1_instruct", text=True)),
        ),
    )


def _own_schedules() -> tuple[Arm, ...]:
    """Each paradigm's stages as scaled down, in the length of a study."""
    books = tiny_paradigms
    blip2 = (_shorter(books.blip2_first()), _shorter(books.blip2_second()))
    return (
        Arm("blip2-own", "BLIP-2's two steps; no instructions", blip2),
        Arm(
            "minigpt4-own",
            "BLIP-2's Q-Former, then its last linear, from captions and from captions that are asked for",
            (*blip2, _shorter(books.minigpt4_pretrain()), _shorter(books.minigpt4_instruct(), second=True)),
        ),
        Arm(
            "llava-own",
            "a linear from few captions, then f_L in full from instructions with pictures",
            (_shorter(books.llava_pretrain()), _shorter(books.llava_instruct(), second=True)),
        ),
        Arm(
            "kosmos1-own",
            "f_L in full from text and captions, then instructions in text alone",
            (_shorter(books.kosmos1_pretrain()), _shorter(books.kosmos1_instruct(), second=True)),
        ),
    )


def _shorter(recipe: Recipe, second: bool = False) -> Recipe:
    """A tiny paradigm's stage in a study's length, by the factor between the study's stages and owl-tiny's."""
    share = STAGE_2 / (tiny.instruct().steps or 1) if second else STAGE_1 / (tiny.pretrain().steps or 1)
    warmup = round(recipe.schedule.warmup_steps * share)
    steps = max(2, round((recipe.steps or 0) * share))
    return replace(_named(recipe, "own"), steps=steps, schedule=replace(recipe.schedule, warmup_steps=warmup))


def _paid(recipe: Recipe, like: Recipe, flops: float) -> Recipe:
    """The recipe with batch and warm-up of mPLUG-Owl's stage, and as many steps as these FLOPs pay for."""
    micro = 32 if recipe.objective == "blip2" else like.micro_batch  # a pass's pairs are one another's wrong ones
    batched = replace(
        _named(recipe, "study"), batch=like.batch, micro_batch=micro, schedule=Schedule(like.schedule.warmup_steps)
    )
    return replace(batched, steps=max(2, round(flops / (sample_cost(batched) * (batched.batch or 1)))))


def _named(recipe: Recipe, kind: str) -> Recipe:
    """A stage of a study: one thread, as every cell's, and started from the stage before it."""
    return replace(recipe, name=f"{kind}.{recipe.name.rpartition('.')[2]}", threads=1, init_from=None)


def stage_flops(recipe: Recipe) -> float:
    """FLOPs of a stage's steps."""
    return sample_cost(recipe) * (recipe.batch or 0) * (recipe.steps or 0)


def sample_cost(recipe: Recipe) -> float:
    """FLOPs of the mean sample of a recipe's mixture."""
    specs = [spec.rpartition("@") if "@" in spec else (spec, "", "1") for spec in recipe.data]
    weights = {source: float(weight) for source, _, weight in specs}
    if recipe.text_share is not None:
        weights = {PICTURES: 1 - recipe.text_share, TEXT: recipe.text_share}
    words, pictures = (
        sum(weight * SAMPLES[source][number] for source, weight in weights.items()) / sum(weights.values()) for number in (0, 1)
    )
    return sample_flops(recipe, words, pictures * recipe.encoding.pictures)
