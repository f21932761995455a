"""The training loop: step, guard, log, save. Accelerate is the engine, for one process and for many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from mplug_owl.data.loader import Batch, StepBatches, step_loader
from mplug_owl.data.survey import Survey
from mplug_owl.errors import Interrupted, UserError
from mplug_owl.model.load import Owl
from mplug_owl.train import checkpoint
from mplug_owl.train.distillation import Distilled, distillation_loss, part_text, without_lora
from mplug_owl.train.exam import Exam
from mplug_owl.train.finish import finish
from mplug_owl.train.optim import clip_gradients
from mplug_owl.train.processes import from_main, sum_gradients
from mplug_owl.train.recipe import Recipe, as_json
from mplug_owl.train.reporter import Progress, Reporter, Silent
from mplug_owl.train.schedule import learning_rate, set_learning_rate
from mplug_owl.train.session import Session, open_session
from mplug_owl.train.sharded import equalise_passes, is_sharded
from mplug_owl.train.window import StepCounts, Window, count_step


def fit(
    recipe: Recipe,
    owl: Owl,
    survey: Survey,
    out: Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
    exam: Exam | None = None,
) -> Path:
    """Train an owl on surveyed sources and return the folder of the finished model, `out/model`.

    `out` also gets recipe.json, metrics.jsonl, curve.png, checkpoints/ and, where LoRA alone learned, adapter/. Samples that
    cannot be read are listed in quarantine.jsonl, steps that cannot be learned from in skipped.jsonl. With `resume` the run
    continues from the newest whole checkpoint and ends as if it had never stopped: what a step sees and draws depends on its
    number. What an `exam` finds goes into metrics.jsonl and changes no number of the run.

    Over 40 lines with what it says of itself, so that the whole loop is read in one place.

    Raises:
        UserError: `out` holds another run, or too many samples or steps cannot be learned from.
        Interrupted: the run was asked to stop, and did after a checkpoint.
        WriteError: the disk has no room for the finished model. For want of other room the run only notes it.
    """
    with open_session(recipe, owl, survey, out, resume, reporter or Silent(), exam) as run:
        run.optimizer.zero_grad(set_to_none=True)  # what a caller left on the weights is not this run's
        for number, data in step_loader(run.dataset, run.first_step, run.steps, run.recipe.workers):
            run.window.data_arrived(data)
            step = take_step(run, number, data)

            if run.guard.accepts(step.done, step.loss, step.norm):
                run.optimizer.step()
                run.window.add(data.batches, step.loss, step.counts)
            elif run.guard.alarmed:
                go_back(run, step.done)
            run.optimizer.zero_grad(set_to_none=True)

            # A checkpoint ends a line of metrics: whoever resumes after it has no sums from before it.
            saves, examines = is_save_due(run, step), is_exam_due(run, step)
            if saves or examines or step.done % run.recipe.log_every == 0 or step.done in (1, run.steps):
                log(run, step, examines)

            if saves:
                save(run, step)
            for problem in (*run.writer.problems(), *run.stop.step_ended(run.writer.seconds)):
                run.reporter.note(problem)
            if step.asked:
                raise Interrupted(f"stopped after step {step.done} of {run.steps}, as asked; --resume continues it")
            run.window.step_ended()

        run.writer.wait()
        for problem in run.writer.problems():
            run.reporter.note(problem)
        return finish(run)


@dataclass(frozen=True)
class Step:
    """A step whose gradients are computed: steps done with it, loss, norm of the gradient, learning rate, what it holds.

    `asked` is whether any process was asked to stop.
    """

    done: int
    loss: float
    norm: float
    rate: float
    counts: StepCounts
    asked: bool


def take_step(run: Session, number: int, data: StepBatches) -> Step:
    """Forward and backward through a step counted from 0: its gradients are summed over all processes, and clipped."""
    recipe = run.recipe
    rate = learning_rate(recipe.optimizer.lr, recipe.schedule, number, run.steps)
    set_learning_rate(run.optimizer, rate)
    counts = count_step(run.accelerator, data)
    run.quarantine.add(counts.bad, run.dataset.mixture.batch)
    run.window.bad += len(counts.bad)
    batches: Sequence[Batch] = data.batches
    if is_sharded(run.accelerator):
        batches = equalise_passes(batches, counts.passes, counts.pictures, run.owl.model)

    own_loss = forward_backward(run, number, batches, counts.supervised)
    sum_gradients(run.accelerator, run.learner)
    norm = clip_gradients(run.learner, recipe.clip)
    asked = torch.tensor(float(run.stop.asked), device=own_loss.device)
    loss, asks = run.accelerator.reduce(torch.stack([own_loss, asked])).tolist()
    return Step(number + 1, loss, norm, rate, counts, asks > 0)


def forward_backward(run: Session, number: int, batches: Sequence[Batch], supervised: Tensor) -> Tensor:
    """Gradients of a step's batches on the weights; returns this process's share of the loss.

    Every supervised token of the step weighs the same, whichever forward pass or process it falls into.
    """
    precision, distilled = run.recipe.precision, list[Distilled]()
    if isinstance(run.learner, PeftModel) and run.recipe.text_distillation:
        batches, text = part_text(batches, run.owl.model.config.image_token_id)
        distilled = without_lora(run.learner, run.owl.model, text, precision)
    passes = [partial(batch_loss, run.model, batch, supervised, precision) for batch in batches]
    passes += [partial(distillation_loss, run.owl.model, text, supervised, precision) for text in distilled]
    rank = run.accelerator.process_index
    seeds = [dropout_seed(run.recipe.seed, number, rank, position) for position in range(len(passes))]
    return run.threads.backward(passes, seeds, sum(batch.input_ids.numel() for batch in batches))


def dropout_seed(seed: int, step: int, rank: int, position: int) -> int:
    """The seed of one forward pass, so that a resumed run draws the dropout that the whole one would have drawn."""
    return int(np.random.SeedSequence([seed, 5, step, rank, position]).generate_state(1, np.uint64)[0])


def batch_loss(model: nn.Module, batch: Batch, supervised: Tensor, precision: str) -> Tensor:
    """One forward pass's share of the step's loss, on the device where `supervised` is."""
    device = supervised.device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model(**batch.to(device).inputs, loss_only=True, num_items_in_batch=supervised, use_cache=False).loss


def go_back(run: Session, done: int) -> None:
    """Take the weights and averages of an older checkpoint; the next step sees the samples that come next."""
    run.writer.wait()
    found = from_main(run.accelerator, partial(run.guard.way_back, done, run.writer.folder, run.recipe.save_every))
    checkpoint.restore(found, run.learner, run.optimizer)
    run.guard.went_back(done, found)
    run.reporter.note(f"step {done}: too many steps left out in a row; continuing with the weights of step {found.step}")


def is_save_due(run: Session, step: Step) -> bool:
    """Whether a checkpoint is written after this step: when asked to stop, and every so many steps but the last."""
    every = run.recipe.save_every
    return step.asked or (every is not None and step.done % every == 0 and step.done < run.steps)


def is_exam_due(run: Session, step: Step) -> bool:
    """Whether the model is examined after this step."""
    return run.exam is not None and run.exam.due(step.done, run.steps) and not step.asked


def log(run: Session, step: Step, examines: bool) -> None:
    """Write a line of metrics, with the figures of an exam where one is due, and report it. The other processes wait."""
    if run.metrics is None:
        return
    line = run.window.line()
    figures = run.exam.figures(run.owl, run.recipe.precision) if examines and run.exam is not None else {}
    if taken := sorted(figures.keys() & {"step", "lr", "grad_norm", "loss", *line}):
        raise UserError(f"exam: {taken[0]} is the name of another figure in metrics.jsonl; call it exam_{taken[0]}")
    run.metrics.write(step=step.done, lr=step.rate, grad_norm=step.norm, **line, **figures)
    loss, speed = line.get("loss", float("nan")), line["tokens_per_second"]
    run.reporter.progress(Progress(step.done, run.steps, loss, step.rate, speed, run.time_left.after(step.done)))
    run.window = Window(run.window.utilisation)


def save(run: Session, step: Step) -> None:
    """Begin to write a checkpoint in the background, or write it to its end where the run was asked to stop.

    Every process takes part in the copy, the main one writes it.
    """
    recipe = as_json(replace(run.recipe, threads=run.threads.shared))
    state = {**run.guard.state, "sizes": run.survey.sizes}  # the order of the samples depends on them
    taken = checkpoint.snapshot(step.done, run.learner, run.optimizer, recipe, state, keep=run.is_main)
    if run.is_main:
        run.writer.save(taken)
    if step.asked:
        run.writer.wait()
