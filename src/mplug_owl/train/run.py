"""One run from recipe to finished folder, as `owl train` does it: data checked, who learns shown, progress on the screen."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from mplug_owl.conversation import Conversation
from mplug_owl.data.examples import Examples
from mplug_owl.data.mixture import SampleId
from mplug_owl.data.sources import Source, check, read
from mplug_owl.model.build import build
from mplug_owl.model.load import Owl, load
from mplug_owl.train import metrics
from mplug_owl.train.batch import text_alone
from mplug_owl.train.exam import Exam
from mplug_owl.train.loop import Progress, train
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.trainable import Part

# How many problems of the data are worth reading at once.
SHOWN_PROBLEMS = 10
# Larger sources are not read through before a run; what is broken in them is found, and set aside, as it comes.
LOOKED_THROUGH = 5000
# A fresh tokenizer learns its words from so many records of each source.
READ_FOR_WORDS = 20_000


def run(recipe: Recipe, out: Path, resume: bool = False, console: Console | None = None, exam: Exam | None = None) -> Path:
    """Train as the recipe says into `out` and return the finished model's folder.

    Raises ValueError for what a user can mend, and Stopped when asked to stop.
    """
    console = console or Console(stderr=True)
    metrics.check(recipe.trackers)
    sources, weights = open_data(recipe.data)
    _look_through(recipe, sources, console)
    text_alone(recipe, sources)  # what is missing is told before a model of billions is made
    owl = initial_model(recipe, sources)
    if recipe.init_from is None and recipe.trainable.abstractor == "frozen" and recipe.encoding.pictures:
        console.print(
            "the abstractor is fresh and frozen, so pictures will say nothing: go on from a stage 1 with --from", style="yellow"
        )
    _warn_of_nothing_to_learn(recipe, owl, sources, console)
    with _bar(console) as bar:
        task = bar.add_task(recipe.name, total=recipe.steps, loss="…", speed="")

        def report(progress: Progress) -> None:
            speed = f"{progress.tokens_per_second:,.0f} tokens/s"
            if console.is_terminal:
                bar.update(task, completed=progress.step, loss=f"{progress.loss:.3f}", speed=speed)
            else:
                line = f"{recipe.name}: step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {speed}"
                console.print(line, highlight=False)

        def began(parts: Sequence[Part]) -> None:
            console.print(who_learns(parts, f"{recipe.name}: who learns"))

        def note(words: str) -> None:
            console.print(words, markup=False)  # a folder's name may hold [brackets]

        return train(recipe, owl, sources, out, weights, resume, began, report, note, exam)


def open_data(specs: Sequence[str]) -> tuple[list[Source], list[float | None]]:
    """Sources and weights of "FORMAT:PATH[@WEIGHT]" specs. Raises ValueError where there is none, or a weight is no number."""
    if not specs:
        raise ValueError("no data: give --data FORMAT:PATH[@WEIGHT], as often as there are sources")
    sources: list[Source] = []
    weights: list[float | None] = []
    for spec in specs:
        path, at, weight = spec.rpartition("@")
        weighted = bool(at) and re.fullmatch(r"\d+(\.\d*)?|\.\d+", weight) is not None
        sources.append(read(path if weighted else spec))
        weights.append(float(weight) if weighted else None)
    if None in weights and any(weight is not None for weight in weights):
        bare = specs[weights.index(None)]
        raise ValueError(f"{bare}: has no @WEIGHT but others have; weigh every source or none")
    return sources, weights


def initial_model(recipe: Recipe, sources: Sequence[Source]) -> Owl:
    """The owl a run begins with: the one it goes on from, or one built from the recipe's modules."""
    owl = _made(recipe, sources)
    if recipe.attention is not None:
        for module in (owl.model.model.vision_tower, owl.model.model.language_model):
            module.set_attn_implementation(recipe.attention)
    return owl


def _made(recipe: Recipe, sources: Sequence[Source]) -> Owl:
    if recipe.init_from is not None:
        return load(recipe.init_from, device="cpu", dtype="float32")
    talks = (talk for source in sources for talk in _readable(source, READ_FOR_WORDS))
    texts = (piece.text for talk in talks for piece in talk.pieces() if piece.text is not None)
    return build(recipe.modules, texts, recipe.seed)


def who_learns(parts: Sequence[Part], title: str) -> Table:
    """The table of the three modules: frozen or learning, and how many parameters."""
    faces = {"frozen": "❄  frozen", "lora": "🔥 LoRA", "last": "🔥 last", "full": "🔥 full"}
    columns = Table(title=title, title_justify="left")
    for name in ("module", "learns", "parameters", "learned"):
        columns.add_column(name, justify="left" if name in ("module", "learns") else "right")
    for part in parts:
        columns.add_row(f"{part.symbol} {part.name}", faces[part.tuning], f"{part.parameters:,}", f"{part.trainable:,}")
    total, learned = sum(part.parameters for part in parts), sum(part.trainable for part in parts)
    columns.add_section()
    columns.add_row("together", "", f"{total:,}", f"{learned:,}", style="bold")
    return columns


def _readable(source: Source, count: int) -> Iterator[Conversation]:
    """The first `count` conversations, those that can be read."""
    for index in range(min(len(source), count)):
        with contextlib.suppress(ValueError):
            yield source[index]


def _look_through(recipe: Recipe, sources: Sequence[Source], console: Console) -> None:
    """Small sources are read once before the first step: what is broken is told now, and too much of it ends the run here."""
    small = [source for source in sources if len(source) <= LOOKED_THROUGH]
    problems = [problem for source in small for problem in check(source)]
    if not problems:
        return
    records = sum(len(source) for source in small)
    shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    told = f"{len(problems)} of {records} records cannot be read"
    if len(problems) > recipe.max_bad_share * records:
        raise ValueError(f"{told}, more than max_bad_share={recipe.max_bad_share:g} allows:{shown}")
    console.print(f"{told} and will be set aside, each listed in quarantine.jsonl:{shown}", style="yellow", markup=False)


def _warn_of_nothing_to_learn(recipe: Recipe, owl: Owl, sources: Sequence[Source], console: Console) -> None:
    how = recipe.encoding
    for number, source in enumerate(sources):
        examples, reading = [], Examples(sources, owl.processor, how, recipe.seed)
        for index in range(min(len(source), 100)):
            with contextlib.suppress(ValueError):
                examples.append(reading[SampleId(number, 0, index)])
        empty = sum(not any(example.loss_mask) for example in examples)
        cut = sum(example.cut > 0 for example in examples)
        if empty or cut:
            console.print(
                f"{source.name}: of the first {len(examples)}, {cut} are cut at {how.max_tokens} tokens and "
                f"{empty} have nothing left to learn; see owl inspect, or raise encoding.max_tokens",
                style="yellow",
                markup=False,
            )


def _bar(console: Console) -> Bar:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    return Bar(*columns, console=console, disable=not console.is_terminal)
