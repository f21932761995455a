"""What a run holds while it trains, put together once before the first step and taken apart after the last."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.survey import Survey
from mplug_owl.errors import UserError
from mplug_owl.model.attention import use_packed_attention
from mplug_owl.model.kernel_caches import TRAINING, bound_kernel_caches
from mplug_owl.model.load import Owl
from mplug_owl.model.quantised import quantise
from mplug_owl.train import checkpoint, counted, metrics, resume
from mplug_owl.train.batch_size import resolve_batch_size
from mplug_owl.train.compiled import compile_language_model
from mplug_owl.train.disk import JsonLines
from mplug_owl.train.exam import Exam
from mplug_owl.train.flops import Utilisation, count_flops, device_tflops
from mplug_owl.train.half import HalfWeights
from mplug_owl.train.loss_guard import LossGuard
from mplug_owl.train.objective import add_objective, with_objective
from mplug_owl.train.optim import make_optimizer
from mplug_owl.train.processes import distribute_model, from_main, joined_processes
from mplug_owl.train.quarantine import Quarantine
from mplug_owl.train.quick import quick_passes
from mplug_owl.train.recipe import Recipe, as_json
from mplug_owl.train.reporter import Reporter, Silent
from mplug_owl.train.sharded import is_sharded
from mplug_owl.train.stop import Stop
from mplug_owl.train.threads import Threads, open_threads
from mplug_owl.train.time_left import TimeLeft
from mplug_owl.train.trainable import Part, check_packing, checkpoint_activations, prepare, set_mode, table
from mplug_owl.train.window import Window


@dataclass
class Session:
    """What a run holds.

    `learner` are the weights that learn, inside PEFT's adapters where there are any; `model` is what a batch is given to.
    `first_step` is the number of steps that were done before, counted from 0. `metrics` is None in processes that write none.
    """

    recipe: Recipe
    owl: Owl
    survey: Survey
    out: Path
    steps: int
    first_step: int
    accelerator: Accelerator
    learner: nn.Module
    model: nn.Module
    parts: list[Part]
    optimizer: torch.optim.Optimizer
    dataset: StepDataset
    quarantine: Quarantine
    guard: LossGuard
    writer: checkpoint.Writer
    metrics: metrics.Metrics | None
    window: Window
    time_left: TimeLeft
    threads: Threads
    half: HalfWeights
    reporter: Reporter
    stop: Stop
    exam: Exam | None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.accelerator.is_main_process


@contextlib.contextmanager
def open_session(
    recipe: Recipe, owl: Owl, survey: Survey, out: Path, resumed: bool, reporter: Reporter, exam: Exam | None
) -> Iterator[Session]:
    """All that a run needs, its processes joined; what it wrote is closed where the block ends, well or not.

    Over 40 lines because it is one list: what is made first, what needs it, and which of it the main process decides.
    """
    bound_kernel_caches(TRAINING)
    learner = _prepared(owl, recipe)
    parts = table(owl.model, recipe.trainable)
    if recipe.base is not None:
        quantise(owl.model, recipe.base)
    with joined_processes(recipe, out) as accelerator, Stop(recipe.grace_seconds) as stop, contextlib.ExitStack() as opened:
        main = accelerator.is_main_process
        if not main:
            reporter = Silent()
        opened.callback(reporter.close)
        reporter.start(recipe.name, parts)

        from_main(accelerator, lambda: opened.enter_context(resume.held(out)))
        slots = from_main(accelerator, lambda: counted.slots_of(survey.sources, out, resumed))
        survey = counted.with_slots(survey, slots)

        def resolve() -> tuple[int | None, int | None, Mixture]:
            saved = resume.saved_values(out) if resumed else None
            settled, mixture = resolve_batch_size(recipe, survey, owl.processor, saved, reporter.note)
            return settled.batch, settled.steps, mixture  # a recipe with a function out of ./mine.py cannot be sent

        batch, steps, mixture = from_main(accelerator, resolve)  # once, so a failing disk does not part the processes
        settled = replace(recipe, batch=batch, steps=steps, epochs=None)
        rank, world = accelerator.process_index, accelerator.num_processes
        examples = Examples(survey.sources, owl.processor, settled.encoding, settled.seed)
        dataset = StepDataset(examples, mixture, settled.micro_batch, rank, world)
        model = _on_device(accelerator, learner, owl, settled, exam)
        optimizer = make_optimizer(owl.model, settled.optimizer)
        quick: Sequence[nn.Module] = ()
        if accelerator.device.type == "cpu" and not settled.compile:
            quick = opened.enter_context(quick_passes(learner, owl.model, settled.attention, is_sharded(accelerator)))

        found = from_main(accelerator, lambda: resume.begin(out, settled, resumed, reporter.note))
        first_step, state = (found.step, checkpoint.state_of(found)) if found is not None else (0, {})
        _check_sizes(survey, state, out)
        if found is None and main:
            counted.write(out, slots)
        if settled.index and accelerator.is_local_main_process:
            opened.enter_context(counted.indexed_meanwhile(survey.sources, reporter.note))
        if found is not None:
            checkpoint.restore(found, learner, optimizer)
        trackers = metrics.follow(accelerator, settled.name, as_json(settled)) if settled.trackers else ()
        log = metrics.Metrics(out / "metrics.jsonl", first_step, trackers, reporter.note) if main else None
        if log is not None:
            opened.callback(log.close)
        writer = checkpoint.Writer(out / "checkpoints", settled.keep_checkpoints)
        opened.callback(writer.wait)  # whoever resumes after an error finds the checkpoint that was begun before it
        skipped = JsonLines(out / "skipped.jsonl", lambda row: row["step"] <= first_step, reporter.note) if main else None
        tflops = settled.tflops or device_tflops(accelerator.device)
        utilisation = Utilisation(count_flops(owl.model.config, parts, settled.objective), tflops) if tflops else None
        yield Session(
            recipe=settled,
            owl=owl,
            survey=survey,
            out=out,
            steps=settled.steps or 0,
            first_step=first_step,
            accelerator=accelerator,
            learner=learner,
            model=model,
            parts=parts,
            optimizer=optimizer,
            dataset=dataset,
            quarantine=Quarantine(out / "quarantine.jsonl" if main else None, settled.max_bad_share, reporter.note),
            guard=LossGuard(settled.spike, settled.patience, settled.rollbacks, dataset.names, skipped, state),
            writer=writer,
            metrics=log,
            window=Window(utilisation),
            time_left=TimeLeft(first_step, settled.steps or 0),
            threads=opened.enter_context(open_threads(settled, learner, accelerator, found, reporter.note)),
            half=opened.enter_context(HalfWeights(learner, settled.precision == "bf16" and not is_sharded(accelerator), quick)),
            reporter=reporter,
            stop=stop,
            exam=exam,
        )


def _check_sizes(survey: Survey, state: Mapping[str, Any], out: Path) -> None:
    """Raise UserError where a source has another number of records than the run went by: all would come in another order."""
    for source, size, before in zip(survey.sources, survey.sizes, state.get("sizes", survey.sizes), strict=False):
        if size != before:
            raise UserError(
                f"{source.name}: has {size:,} records and had {before:,} when {out} was trained, so that they would come in "
                "another order; put them back as they were, or begin another run"
            )


def _prepared(owl: Owl, recipe: Recipe) -> nn.Module:
    """The weights that learn, with adapters where the recipe asks for them. Raises UserError where it cannot be done here."""
    if not torch.is_grad_enabled():
        raise UserError("train: called under torch.no_grad() or inference_mode, where nothing can learn; call it outside")
    metrics.check(recipe.trackers)
    if recipe.encoding.pack is not None:
        check_packing(owl.model)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # for the first values of adapters, and of a Q-Former's text side
        add_objective(owl.model, recipe)
        learner = prepare(owl.model, recipe)
    if recipe.gradient_checkpointing:
        checkpoint_activations(owl.model)
    return with_objective(learner, owl.model, recipe)


def _on_device(accelerator: Accelerator, learner: nn.Module, owl: Owl, recipe: Recipe, exam: Exam | None) -> nn.Module:
    """The learner where it trains: on this process's device, whole or in shares, in the modes that the recipe says."""
    if exam is not None and is_sharded(accelerator):
        raise UserError("an exam in the middle of a run needs a whole model, and FSDP has none; leave out --eval-every")
    if recipe.base is not None and is_sharded(accelerator):
        raise UserError(f"base={recipe.base}: FSDP cannot split quantised weights; leave one of the two out")
    if recipe.text_distillation and is_sharded(accelerator):
        raise UserError("text_distillation: parts passes, and FSDP needs as many in every process; leave one of the two out")
    if recipe.objective == "blip2" and is_sharded(accelerator):
        raise UserError("objective=blip2: FSDP splits the layers that words and queries share; launch without FSDP")
    model = distribute_model(accelerator, learner)
    language_model = owl.model.model.language_model
    if recipe.encoding.pack is not None and accelerator.device.type == "cuda":
        use_packed_attention(language_model)
    set_mode(owl.model, recipe.trainable)
    if recipe.compile:
        compile_language_model(language_model, accelerator.device.type)
    return model
