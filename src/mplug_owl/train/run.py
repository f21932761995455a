"""`train`: one stage from its recipe to the finished folder, as `owl train` and `from mplug_owl import train` do it."""

import re
from collections.abc import Sequence
from pathlib import Path

from mplug_owl.data.sources import Source, read
from mplug_owl.data.survey import Survey
from mplug_owl.errors import UserError
from mplug_owl.model.build import build
from mplug_owl.model.config import max_positions
from mplug_owl.model.kernel_caches import TRAINING, bound_kernel_caches
from mplug_owl.model.load import Owl, load
from mplug_owl.train import counted, metrics
from mplug_owl.train.batch_size import text_only
from mplug_owl.train.exam import Exam
from mplug_owl.train.loop import fit
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.reporter import Reporter, Screen
from mplug_owl.train.resume import saved_values, with_what_was_done

# How many problems of the data are worth reading at once.
SHOWN_PROBLEMS = 10
# A fresh tokenizer learns its words from so many records of each source.
READ_FOR_WORDS = 20_000


def train(
    recipe: Recipe, out: Path | str, *, resume: bool = False, reporter: Reporter | None = None, exam: Exam | None = None
) -> Path:
    """Train as the recipe says into the folder `out`; the finished model is in `out/model`, which is returned.

    Over 40 lines with its arguments.

    Args:
        recipe: everything about the run, its data too; `Recipe.data` are "FORMAT:PATH[@WEIGHT]".
        out: the run's folder. It gets recipe.json, metrics.jsonl, curve.png, checkpoints/ and model/.
        resume: continue from the newest whole checkpoint in `out`, with the same recipe; without one, start.
        reporter: hears everything that the run says; a terminal's screen where there is none.
        exam: something to ask the model every so many steps; its figures go into metrics.jsonl.

    Raises:
        UserError: for what a user can mend: data, fields of the recipe, a folder that holds another run.
        Interrupted: the run was asked to stop, and did after a checkpoint.
        WriteError: the disk has no room for the finished model.

    Example:
        >>> from mplug_owl import train
        >>> from mplug_owl.recipes import tiny
        >>> train(tiny.pretrain(), "runs/pretrain")  # doctest: +SKIP
        PosixPath('runs/pretrain/model')
    """
    bound_kernel_caches(TRAINING)
    reporter = reporter or Screen()
    metrics.check(recipe.trackers)
    recipe, survey = _begun(recipe, Path(out), resume)
    _report_problems(recipe, survey, reporter)
    text_only(recipe, survey)  # what is missing is reported before a model of billions is made
    owl = initial_model(recipe, survey)
    _check_positions(recipe, owl)
    if recipe.steps is not None and recipe.schedule.warmup_steps >= recipe.steps:
        reporter.note(
            f"the warm-up takes {recipe.schedule.warmup_steps} steps and the run has {recipe.steps}: its learning rate does "
            "nothing but rise; set schedule.warmup_steps lower"
        )
    _report_added_rows(recipe, owl, reporter)
    if recipe.init_from is None and recipe.trainable.abstractor == "frozen" and recipe.encoding.pictures:
        reporter.note("the abstractor is fresh and frozen, so pictures will say nothing; start from a stage 1 with --from")
    _report_cuts(recipe, survey, owl, reporter)
    return fit(recipe, owl, survey, Path(out), resume=resume, reporter=reporter, exam=exam)


def open_data(specs: Sequence[str], image_root: str | None = None) -> tuple[list[Source], list[float | None]]:
    """Sources and weights of "FORMAT:PATH[@WEIGHT]" specs. Pictures are looked for below `image_root` first.

    Raises UserError where there is none, or only some have a weight.
    """
    if not specs:
        raise UserError("no data: give --data FORMAT:PATH[@WEIGHT], as often as there are sources")
    sources: list[Source] = []
    weights: list[float | None] = []
    for spec in specs:
        path, at, weight = spec.rpartition("@")
        weighted = bool(at) and re.fullmatch(r"\d+(\.\d*)?|\.\d+", weight) is not None
        sources.append(read(path if weighted else spec, image_root))
        weights.append(float(weight) if weighted else None)
    if None in weights and any(weight is not None for weight in weights):
        bare = specs[weights.index(None)]
        raise UserError(f"{bare}: has no @WEIGHT but others have; weigh every source or none")
    return sources, weights


def initial_model(recipe: Recipe, survey: Survey) -> Owl:
    """The owl that a run starts with: the one in `init_from`, or one built from the recipe's modules."""
    if recipe.init_from is not None:
        owl = load(recipe.init_from, device="cpu", dtype="float32")
    else:
        owl = build(recipe.modules, survey.texts(READ_FOR_WORDS), recipe.seed)
    if recipe.attention is not None:
        for module in (owl.model.model.vision_tower, owl.model.model.language_model):
            try:
                module.set_attn_implementation(recipe.attention)
            except ValueError as error:  # Gemma 2 caps its scores, GPT-OSS has sinks: sdpa has neither
                raise UserError(f"attention={recipe.attention}: {module.config.model_type} has none; leave it out") from error
        owl.model.config._attn_implementation = recipe.attention  # which the abstractor reads
    return owl


def _begun(recipe: Recipe, out: Path, resume: bool) -> tuple[Recipe, Survey]:
    """Recipe and counts of the data as the run began, with what it did before some fields came: before anything is read."""
    survey = Survey(*open_data(recipe.data, recipe.image_root))
    if not resume:
        return recipe, survey
    counts = counted.slots_of(survey.sources, out, resume)
    return with_what_was_done(recipe, saved_values(out)), counted.with_slots(survey, counts)


def _check_positions(recipe: Recipe, owl: Owl) -> None:
    """A sample longer than the language model's positions is an IndexError in some, and is learned for nothing in others."""
    positions = max_positions(owl.model.config.text_config)
    if positions is not None and recipe.encoding.max_tokens > positions:
        raise UserError(
            f"encoding.max_tokens is {recipe.encoding.max_tokens} and the language model has {positions} positions; "
            f"expected {positions} at most"
        )


def _report_added_rows(recipe: Recipe, owl: Owl, reporter: Reporter) -> None:
    """Tokens that the language model's table had no row for: what they say is learned only where it learns in full."""
    if recipe.init_from is not None or recipe.modules.language is None or recipe.trainable.language == "full":
        return
    if (added := owl.model.config.text_config.vocab_size - recipe.modules.config().text_config.vocab_size) > 0:
        reporter.note(
            f"{recipe.modules.language}: its tokenizer has tokens above its embedding table; they get {added} rows, the mean "
            "of the others, which learn only with trainable.language=full"
        )


def _report_problems(recipe: Recipe, survey: Survey, reporter: Reporter) -> None:
    """Small sources are read once before the first step. Too much that is broken in them ends the run here."""
    if not (problems := survey.problems):
        return
    shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    found = f"{len(problems)} of {survey.checked} records cannot be read"
    if len(problems) > recipe.max_bad_share * survey.checked:
        raise UserError(f"{found}, more than max_bad_share={recipe.max_bad_share:g} allows:{shown}")
    reporter.note(f"{found} and will be left out, each listed in quarantine.jsonl:{shown}")


def _report_cuts(recipe: Recipe, survey: Survey, owl: Owl, reporter: Reporter) -> None:
    frozen = recipe.trainable.language == "frozen" and recipe.encoding.pictures
    for cut in survey.cuts(owl.processor, recipe.encoding, recipe.seed):
        if frozen and cut.examples and not cut.pictured:
            reporter.note(
                f"{cut.source}: of the first {cut.examples} none shows a picture; text alone teaches nothing while "
                "trainable.language is frozen, so leave it out"
            )
        if cut.cut or cut.empty:
            reporter.note(
                f"{cut.source}: of the first {cut.examples}, {cut.cut} are cut at {recipe.encoding.max_tokens} tokens and "
                f"{cut.empty} have nothing left to learn; see owl inspect, or raise encoding.max_tokens"
            )
