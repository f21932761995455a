"""The training loop: one file, one loop, nothing hidden. Accelerate is the engine, for one process and for many."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import nn

from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import Batch, StepDataset, step_loader
from mplug_owl.data.sources import Source
from mplug_owl.errors import Interrupted
from mplug_owl.model.attention import use_packed_attention
from mplug_owl.model.load import Owl
from mplug_owl.train import card, checkpoint, metrics
from mplug_owl.train.aside import LossGuard, Quarantine
from mplug_owl.train.batch import resolve_batch_size
from mplug_owl.train.compiled import compile_language_model
from mplug_owl.train.disk import JsonLines, writing
from mplug_owl.train.exam import Exam
from mplug_owl.train.flops import Utilisation, count_flops, device_tflops
from mplug_owl.train.optim import learning_rate
from mplug_owl.train.optim import optimizer as make_optimizer
from mplug_owl.train.processes import clip, distribute_model, from_main, joined_processes, sum_gradients
from mplug_owl.train.recipe import Recipe, as_json, differences
from mplug_owl.train.sharded import equalise_passes, is_sharded, make_whole
from mplug_owl.train.stop import Stop
from mplug_owl.train.trainable import Part, check_packing, checkpoint_activations, prepare, set_mode, table

# Fields that a resumed run may have changed: they say how a run is made and watched, not what it computes.
FREE_TO_CHANGE = (
    "workers",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "trackers",
    "tflops",
    "max_bad_share",
    "grace_seconds",
    "process_timeout",
)


@dataclass(frozen=True)
class Progress:
    """What a step reports: its number counted from 1, the mean loss since the last report, the rate, the speed."""

    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: float


def train(
    recipe: Recipe,
    owl: Owl,
    sources: Sequence[Source],
    out: Path,
    weights: Sequence[float | None] | None = None,
    resume: bool = False,
    began: Callable[[Sequence[Part]], None] = lambda parts: None,
    report: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = print,
    exam: Exam | None = None,
) -> Path:
    """Train an owl and return the folder of the finished model, `out/model`.

    `out` also gets recipe.json, metrics.jsonl, curve.png, checkpoints/ and, where LoRA alone learned, adapter/. With
    `resume` the newest whole checkpoint goes on as if the run had never stopped: what a step sees and draws depends on its
    number. Samples that cannot be read go into quarantine.jsonl, steps that cannot be learned from into skipped.jsonl. What an
    `exam` says goes into metrics.jsonl; it changes no number of the run.
    Raises ValueError where `out` holds another run or too much is set aside, Stopped, behind a checkpoint, when asked to, and
    Unwritten where the disk has no room for the finished model. No room for a checkpoint or a line is told by `note` alone.
    """
    if not torch.is_grad_enabled():
        raise ValueError("train: called under torch.no_grad() or inference_mode, where nothing can learn; call it outside")
    metrics.check(recipe.trackers)
    if recipe.encoding.pack is not None:
        check_packing(owl.model)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # for the adapters' first values
        learner = prepare(owl.model, recipe)
    parts = table(owl.model, recipe.trainable)
    if recipe.gradient_checkpointing:
        checkpoint_activations(owl.model)

    with joined_processes(recipe, out) as accelerator, Stop(recipe.grace_seconds) as stop, contextlib.ExitStack() as opened:
        world, main = accelerator.num_processes, accelerator.is_main_process
        if main:
            began(parts)
        before = out if resume else None  # measured once: a failing disk must not part the processes
        recipe, mixture = from_main(
            accelerator, lambda: resolve_batch_size(recipe, sources, weights, owl.processor, before, note)
        )
        examples = Examples(sources, owl.processor, recipe.encoding, recipe.seed)
        steps = StepDataset(examples, mixture, recipe.micro_batch, accelerator.process_index, world)
        model = distribute_model(accelerator, learner)
        if exam is not None and is_sharded(accelerator):
            raise ValueError("an exam in the middle of a run needs a whole owl, and FSDP has none; leave out --eval-every")
        if recipe.encoding.pack is not None and accelerator.device.type == "cuda":
            use_packed_attention(owl.model.model.language_model)
        set_mode(owl.model, recipe.trainable)
        if recipe.compile:
            compile_language_model(owl.model.model.language_model, accelerator.device.type)
        optimizer = make_optimizer(owl.model, recipe.optimizer)

        found = from_main(accelerator, lambda: _found(out, recipe, resume, note))
        if found is not None:
            checkpoint.restore(found, learner, optimizer)
        first_step, state = (found.step, checkpoint.state_of(found)) if found is not None else (0, {})
        trackers = metrics.follow(accelerator, recipe.name, as_json(recipe)) if recipe.trackers else ()
        log = metrics.Metrics(out / "metrics.jsonl", first_step, trackers, note) if main else None
        if log is not None:
            opened.callback(log.close)
        quarantine = Quarantine(out / "quarantine.jsonl" if main else None, recipe.max_bad_share, note)
        skipped = JsonLines(out / "skipped.jsonl", lambda row: row["step"] <= first_step, note) if main else None
        watch = LossGuard(recipe.spike, recipe.patience, recipe.rollbacks, steps.names, skipped, state)
        writer = checkpoint.Writer(out / "checkpoints", recipe.keep_checkpoints)
        tflops = recipe.tflops or device_tflops(accelerator.device)
        utilisation = Utilisation(count_flops(owl.model.config, parts), tflops) if tflops else None
        window = _Window(utilisation)

        for number, data in step_loader(steps, first_step, recipe.steps, recipe.workers):
            window.data_arrived()
            done = number + 1
            rate = learning_rate(recipe.optimizer, number, recipe.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]

            # Every learned token of the step weighs the same, whichever forward pass or process it falls into.
            pictures = any(batch.pixel_values is not None for batch in data.batches)
            own = [
                sum(batch.supervised for batch in data.batches),
                len(data.bad),
                sum(batch.tokens for batch in data.batches),
            ]
            counts = torch.tensor([[*own, len(data.batches), pictures]], device=accelerator.device)
            counts = accelerator.gather(counts)  # a row of every process
            learned, unreadable, tokens = counts[:, :3].sum(0)
            aside = gather_object(list(data.bad)) if unreadable else []
            quarantine.add(aside, mixture.batch)
            batches = data.batches
            if is_sharded(accelerator):
                batches = equalise_passes(batches, int(counts[:, 3].max()), bool(counts[:, 4].any()), owl.model)

            seed = (recipe.seed, number, accelerator.process_index)
            step_loss = _learn(model, batches, learned, recipe.precision, seed, accelerator.device)
            sum_gradients(accelerator, learner)
            norm = clip(learner, recipe.optimizer.clip)
            totals = accelerator.reduce(torch.stack([step_loss, torch.tensor(float(stop.asked), device=step_loss.device)]))
            total, asked = totals.tolist()
            if watch.accepts(done, total, norm):
                optimizer.step()
                window.add(data.batches, total, int(learned), int(tokens))
            elif watch.alarmed:
                writer.wait()
                back = from_main(accelerator, partial(watch.way_back, done, writer.folder, recipe.save_every))
                checkpoint.restore(back, learner, optimizer)
                watch.went_back(done, back)
                if main:
                    note(f"step {done}: too many steps left out in a row; going on with the weights of step {back.step}")
            optimizer.zero_grad(set_to_none=True)

            saves = asked or (recipe.save_every is not None and done % recipe.save_every == 0 and done < recipe.steps)
            examined = exam is not None and exam.due(done, recipe.steps) and not asked
            # A checkpoint ends a line of metrics: one who resumes behind it has no sums from before it.
            if log is not None and (saves or examined or done % recipe.log_every == 0 or done in (1, recipe.steps)):
                line = window.line()
                marks = exam.figures(owl, recipe.precision) if exam is not None and examined else {}  # the others wait
                log.write(step=done, lr=rate, grad_norm=norm, **line, **marks)
                report(Progress(done, recipe.steps, line.get("loss", float("nan")), rate, line["tokens_per_second"]))
                window = _Window(utilisation)
            if saves:
                taken = checkpoint.snapshot(done, learner, optimizer, as_json(recipe), watch.state, keep=main)
                if main:
                    writer.save(taken)
            if asked:
                writer.wait()
            for problem in (*writer.problems(), *stop.step_ended(writer.seconds)):
                note(problem)
            if asked:
                raise Interrupted(f"stopped behind step {done} of {recipe.steps}, as asked; --resume goes on")
            window.step_ended()

        writer.wait()
        for problem in writer.problems():
            note(problem)
        opened.close()
        make_whole(learner, keep=main)
        if main:
            _finish(out, learner, owl, recipe, parts, sources)
    return out / "model"


def _learn(
    model: nn.Module,
    batches: Sequence[Batch],
    learned: torch.Tensor,
    precision: str,
    seed: tuple[int, ...],
    device: torch.device,
) -> torch.Tensor:
    """Forward and backward through a step's batches: gradients on the weights, this process's share of the loss returned."""
    total = torch.zeros((), device=device)
    for place, batch in enumerate(batches):
        # Dropout draws from the pass's own seed, so a resumed run draws what the whole one would have.
        torch.manual_seed(hash((*seed, place)))
        loss = _loss(model, batch.to(device), learned, precision)
        loss.backward()
        total += loss.detach()
    return total


def _loss(model: nn.Module, batch: Batch, learned: torch.Tensor, precision: str) -> torch.Tensor:
    """This forward pass's share of the step's loss."""
    device = batch.input_ids.device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        return model(**batch.inputs, supervised_only=True, num_items_in_batch=learned, use_cache=False).loss


def _found(out: Path, recipe: Recipe, resume: bool, note: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint where a run is resumed and has one; None begins in a new folder."""
    if not resume:
        if (out / "metrics.jsonl").exists():
            raise ValueError(f"{out}: holds a run already; choose another --out, or go on with it by --resume")
        _write_recipe(out, recipe)
        return None
    found, notes = checkpoint.newest(out / "checkpoints")
    for sentence in notes:
        note(sentence)
    if found is None:
        note(f"{out}: no whole checkpoint; starting from the beginning")
        _write_recipe(out, recipe)
        return None
    if different := differences(_numbers(checkpoint.recipe_of(found)), _numbers(as_json(recipe))):
        raise ValueError(f"{out}: was trained under another recipe; it differs in {'; '.join(different)}")
    note(f"{out}: going on behind step {found.step}")
    return found


def _write_recipe(out: Path, recipe: Recipe) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with writing(str(out / "recipe.json")):
        (out / "recipe.json").write_text(json.dumps(as_json(recipe), indent=1), encoding="utf-8")


def _numbers(recipe: dict[str, object]) -> dict[str, object]:
    """The recipe without what changes no number of a run."""
    return {name: value for name, value in recipe.items() if name not in FREE_TO_CHANGE}


def _finish(out: Path, learner: nn.Module, owl: Owl, recipe: Recipe, parts: Sequence[Part], sources: Sequence[Source]) -> None:
    """Write the adapter apart, the whole model with it merged, the curve and the card."""
    model = owl.model
    if isinstance(learner, PeftModel):
        if set(vars(recipe.trainable).values()) <= {"frozen", "lora"}:  # else it would be half of what was learned
            with writing(str(out / "adapter")):
                learner.save_pretrained(out / "adapter")
        model = learner.merge_and_unload()
    if recipe.frozen_bf16:
        model.to(torch.bfloat16)
    model.eval()
    with writing(str(out / "model")):
        model.save_pretrained(out / "model")
        owl.processor.save_pretrained(out / "model")
        metrics.draw([out], out / "curve.png")
        card.write(out, recipe, parts, sources)


class _Window:
    """Sums since the last line of metrics."""

    def __init__(self, utilisation: Utilisation | None = None) -> None:
        self.utilisation, self.pictures = utilisation, 0
        self.began = self.waiting_since = time.perf_counter()
        self.waited = 0.0
        self.loss, self.steps, self.tokens, self.samples, self.places, self.cut, self.learned = 0.0, 0, 0, 0, 0, 0, 0
        self.everywhere = 0  # tokens of all processes; the others are this one's

    def data_arrived(self) -> None:
        self.waited += time.perf_counter() - self.waiting_since

    def step_ended(self) -> None:
        self.waiting_since = time.perf_counter()

    def add(self, micro_batches: Sequence[Batch], loss: float, learned: int, tokens: int) -> None:
        self.loss += loss * learned
        self.learned += learned
        self.steps += 1
        self.everywhere += tokens
        for batch in micro_batches:
            self.tokens += batch.tokens
            self.pictures += 0 if batch.pixel_values is None else len(batch.pixel_values)
            self.places += batch.input_ids.numel()
            self.samples += len(batch.names)
            self.cut += batch.cut

    def line(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.began
        line = {
            **({"loss": self.loss / max(1, self.learned)} if self.steps else {}),  # every step since was left out
            "tokens_per_step": round(self.everywhere / max(1, self.steps)),
            "tokens_per_second": round(self.tokens / seconds, 1),
            "samples_per_second": round(self.samples / seconds, 2),
            "padding": round(1 - self.tokens / max(1, self.places), 4),
            "data_wait": round(self.waited / seconds, 4),
            "learned_tokens": self.learned,
            "cut_tokens": self.cut,
        }
        if self.utilisation is not None:
            line["mfu"] = round(self.utilisation.mfu(self.tokens, self.pictures, seconds), 4)
        return line
