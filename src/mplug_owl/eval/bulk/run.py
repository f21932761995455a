"""`owl answer` from names to a file: whose share is what, who answers it, and what is shown meanwhile."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mplug_owl.chat import ChatModel, Decoding, OwlChatModel, find
from mplug_owl.chat.names import is_endpoint
from mplug_owl.errors import UserError
from mplug_owl.eval.bulk.asking import RecordAnswer, ask_all
from mplug_owl.eval.bulk.parts import AnswerSettings, Part, Parts
from mplug_owl.eval.bulk.questions import Questions
from mplug_owl.eval.exam import model_name, weights_digest
from mplug_owl.model.kernel_caches import ANSWERING, bound_kernel_caches
from mplug_owl.model.quantised import Quantisation

# Where nobody looks at a screen, a line is written so often.
LINE_SECONDS = 30.0
# So many of our own models' answers are made at once, and so many records read.
WINDOW = 64
# How many records of a resumed job are compared with what was asked.
COMPARED = 50


@dataclass(frozen=True)
class AnswerJob:
    """What `owl answer` is asked for.

    Args:
        model: A name that `chat.find` knows.
        source: The data, `FORMAT:PATH` or `PATH`.
        out: The file of answers.
        image_root: Where its pictures are.
        question: What is asked about each picture; None asks what the data says.
        limit: So many records, the first ones; None for all.
        decoding: How words are chosen.
        batch: So many are answered at once; None for 64, or as many as is usual for a model of somebody else's.
        device: Where a model that runs here answers; None takes this process' own, or the best there is.
        dtype: What its weights are kept in.
        quantize: What the linear layers of its language model are rounded to.
        rank: The number of this process among `processes`, from 0.
        processes: How many share the work.
    """

    model: str
    source: str
    out: Path
    image_root: Path | None = None
    question: str | None = None
    limit: int | None = None
    decoding: Decoding = field(default_factory=Decoding)
    batch: int | None = None
    device: str | None = None
    dtype: str = "auto"
    quantize: Quantisation | None = None
    rank: int = 0
    processes: int = 1

    def questions(self) -> Questions:
        """What is asked."""
        return Questions(self.source, self.image_root, self.question, self.limit)

    def answerer(self) -> ChatModel:
        """Who answers, so many at once."""
        bound_kernel_caches(ANSWERING)
        device = self.device or (None if is_endpoint(self.model) else _own_device())
        model = find(self.model, device, self.dtype, self.quantize)
        if isinstance(model, OwlChatModel) or (self.batch is not None and hasattr(model, "batch_size")):
            model.batch_size = self.window
        return model

    @property
    def window(self) -> int:
        """So many records are read at once."""
        return self.batch or WINDOW

    def settings(self, records: int) -> AnswerSettings:
        """What decides the answers, as it is kept beside them."""
        name, weights = model_name(self.model), weights_digest(self.model)
        root = str(self.image_root.resolve()) if self.image_root else None
        kept = name + (f"-{self.quantize}" if self.quantize else "")
        return AnswerSettings(self.source, records, root, self.question, kept, weights, self.decoding, self.dtype)


def answer_all(job: AnswerJob, model: ChatModel | None = None) -> Path:
    """Answer every record of a source that has no answer on the disk yet, or this process' share of them.

    Args:
        job: What is asked, of whom, by which process.
        model: Who answers, instead of the one that the job names.

    Raises:
        UserError: There is no such data or model, other answers are in the file, or an endpoint is down.
        WriteError: The disk takes no more. What was answered is kept.
    """
    questions = job.questions()  # what is wrong with the data is said before a model is loaded
    parts = Parts(job.out, job.settings(len(questions)))
    with parts.written_by(job.rank) as part:
        compare(questions, parts)
        missing = np.flatnonzero(~parts.answered())
        share = missing[missing % job.processes == job.rank].tolist()
        if share:
            _say(job, f"{len(missing):,} of {len(questions):,} records are asked" + _among(job))
            work(share, ask_all(model or job.answerer(), questions, share, job.decoding, job.window), part, job.rank)
    return finish(job, parts)


def work(share: Sequence[int], answers: Iterator[RecordAnswer], part: Part, rank: int) -> None:
    """Write each answer down as it comes, and show how far it is."""
    with _shown(len(share), rank) as progress:
        for count, one in enumerate(answers, 1):
            if one.answer is None:
                part.bad(one.record, one.reason)
            else:
                part.answer(one.record, one.id, one.question, one.answer)
            progress(count)


def finish(job: AnswerJob, parts: Parts) -> Path:
    """Make one file where every process is done, and say what came of it."""
    joined = parts.join()
    if joined is None:
        _say(
            job,
            f"{job.out}: {parts.count():,} of {parts.settings.records:,} records are answered; others are at work, or ended",
        )
        return job.out
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if joined.bad:
        first = joined.bad[0]["reason"]
        more = " ..." if len(joined.bad) > 1 else ""
        console.print(f"{len(joined.bad):,} records have no answer, see {joined.file}: {first}{more}", markup=False)
    if not joined.answers:
        raise UserError(f"{job.source}: none of its {parts.settings.records:,} records could be asked; see {joined.file}")
    console.print(f"{joined.answers:,} answers", markup=False)
    return job.out


def compare(questions: Questions, parts: Parts) -> None:
    """Raise UserError where a record has other words than those that were answered: the data was changed.

    One's own part is being written meanwhile: then nobody joins the parts while they are read.
    """
    answered = np.flatnonzero(parts.answered())
    looked_at = answered[np.linspace(0, len(answered) - 1, min(COMPARED, len(answered))).astype(int)].tolist()
    for position, row in parts.rows(looked_at).items():
        if (words := questions[position].words) != row.get("question"):
            raise UserError(
                f"{parts.out}: record {position + 1} was asked {row.get('question')!r:.80} and is {words!r:.80} now; "
                "give another --out"
            )


def _own_device() -> str | None:
    """The accelerator of this process among those that torchrun started here."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if number is not None and torch.cuda.is_available() else None


def _among(job: AnswerJob) -> str:
    return f", by {job.processes} processes" if job.processes > 1 else ""


def _say(job: AnswerJob, sentence: str) -> None:
    if job.rank == 0:
        Console(stderr=True, highlight=False, soft_wrap=True).print(sentence, style="dim", markup=False)


@contextmanager
def _shown(total: int, rank: int) -> Iterator[Callable[[int], None]]:
    """A bar on a screen, a line now and then elsewhere; the first process' share stands for all."""
    console, shown = Console(stderr=True, quiet=rank != 0), time.monotonic()
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)

        def at(count: int) -> None:
            nonlocal shown
            progress.update(bar, completed=count)
            if not console.is_terminal and time.monotonic() - shown >= LINE_SECONDS:
                shown = time.monotonic()
                console.print(f"{count:,} of {total:,}")

        yield at
