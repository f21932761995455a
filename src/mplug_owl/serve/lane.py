"""One model's jobs: they wait, are admitted a few at once, and are continued in one batch."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, cast

from torch import Tensor
from transformers import GenerationConfig

from mplug_owl.chat.cache import take_row
from mplug_owl.chat.decode import Choice, Prompt, Row, Rows
from mplug_owl.chat.owl import OwlChatModel
from mplug_owl.chat.pictures import PictureFeatures
from mplug_owl.chat.protocol import Decoding
from mplug_owl.conversation import Picture
from mplug_owl.model.load import Owl
from mplug_owl.serve.engine import End, Job, Reason, Token
from mplug_owl.serve.kept import Features, KnownPicture, Turns

# So many tokens of prompts are read between two tokens of the others, and for so many seconds, as far as the last ones tell:
# a second turn waits no longer for a crowd. One prompt is read in any case.
PROMPT_TOKENS, PROMPT_SECONDS = 2048, 0.25
# How much the latest prompts count in the rate at which they are read.
LATEST = 0.3
# Ways of choosing that are kept; each client's stop words may be others.
CHOICES = 64


@dataclass(frozen=True)
class LaneLimits:
    """How much one model does and keeps.

    Args:
        rows: At most so many jobs are continued at once.
        positions: So many positions they hold together at most, padding included; one job alone may hold more.
        features: Bytes of pictures' features that are kept.
        turns: Bytes of conversations' caches that are kept.
    """

    rows: int = 32
    positions: int = 65_536
    features: int = 128 * 2**20
    turns: int = 256 * 2**20


class Lane:
    """The jobs of one model.

    Args:
        owl: Model and processor.
        limits: How much it does and keeps.
        report: Gets the name of a part of the work and its seconds.
    """

    def __init__(self, owl: Owl, limits: LaneLimits, report: Callable[[str, float], None] = lambda part, seconds: None) -> None:
        self.chooser, self.limits, self.report = _Chooser(owl), limits, report
        self.model, processor = owl.model, owl.processor
        self.features = Features(PictureFeatures(owl).encode, limits.features)
        self.turns = Turns(processor.image_token_id, processor.num_image_tokens, limits.turns)
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Job] = {}
        self._numbers = count()
        self._a_second = float(PROMPT_TOKENS) / PROMPT_SECONDS  # tokens of prompts, pictures included
        self.rows = Rows(self.model, self._look)

    @property
    def busy(self) -> bool:
        """Whether any job is in it."""
        return bool(self.waiting or self.running)

    @property
    def continues(self) -> bool:
        """Whether any job has been admitted and is not done."""
        return bool(self.running)

    def add(self, job: Job) -> None:
        """Take a job in; it waits until it is admitted."""
        self.waiting.append(job)

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        return len(self.waiting)

    def turn(self, admits: bool = True) -> None:
        """Drop who is cancelled or late, admit who waits where it `admits`, one more token for everybody."""
        self._drop()
        self._leave()
        begin = time.perf_counter()
        if admits:
            self._admit()
        admitted = time.perf_counter()
        self.report("prompts", admitted - begin)
        if self.rows.rows:
            self.rows.step()
            self._tell(self.rows.rows)
            self._leave()
            self.report("steps", time.perf_counter() - admitted)

    def fail(self) -> None:
        """End every job by a fault and begin anew."""
        for job in [*self.running.values(), *self.waiting]:
            job.tell(End("failed"))
        self.waiting.clear()
        self.running.clear()
        self.chooser.numbers.clear()
        self.rows = Rows(self.model, self._look)

    def _drop(self) -> None:
        """Those who wait no longer, or too long, go before anything is computed for them."""
        now, stay = time.monotonic(), deque[Job]()
        for job in self.waiting:
            if job.cancelled or now >= job.deadline:
                job.tell(End("cancelled" if job.cancelled else "late"))
            else:
                stay.append(job)
        self.waiting = stay
        for row in self.rows.rows:
            row.done = row.done or now >= self.running[row.number].deadline

    def _admit(self) -> None:
        """Read prompts of those who wait: as many as there is room for, until it is the others' turn."""
        left = int(min(PROMPT_TOKENS, self._a_second * PROMPT_SECONDS))
        while self.waiting and left > 0 and self.rows.joinable and self._has_room(self.waiting[0]):
            number, job = self._next()
            begin = time.perf_counter()
            known, cache = self.turns.take(job.owner, job.ids, _keys(job))
            seen = list(job.ids[:known]).count(self.turns.image_token_id) // self.turns.positions
            job.known, choice = known, self.chooser.choice(job)
            prompts = [(number, Prompt(job.ids, job.pictures[seen:], job.seed, cache))]
            if cache is None:
                prompts += self._alike(choice, left - len(job.ids))
            tokens = sum(len(prompt.ids) for _, prompt in prompts) - known
            self._tell(self.rows.add(prompts, choice))
            self._leave()
            left -= tokens
            self._a_second += LATEST * (tokens / max(time.perf_counter() - begin, 1e-6) - self._a_second)

    def _alike(self, choice: Choice, tokens: int) -> list[tuple[int, Prompt]]:
        """Those next in line whose tokens are chosen in the same way, and are no later turn, up to so many tokens."""
        prompts: list[tuple[int, Prompt]] = []
        while self.waiting and self._has_room(self.waiting[0]):
            job = self.waiting[0]
            if self.chooser.choice(job) is not choice or len(job.ids) > tokens:
                break
            if self.turns.knows(job.owner, job.ids, _keys(job)):
                break
            number, job = self._next()
            prompts.append((number, Prompt(job.ids, job.pictures, job.seed)))
            tokens -= len(job.ids)
        return prompts

    def _has_room(self, job: Job) -> bool:
        """Whether a job may come beside those that run: every row is as wide as the widest may become."""
        rows = 1 + len(self.running)
        widest = max(len(one.ids) + one.decoding.max_new_tokens for one in (job, *self.running.values()))
        return rows == 1 or (rows <= self.limits.rows and rows * widest <= self.limits.positions)

    def _next(self) -> tuple[int, Job]:
        """Who is first in line, from now on under a number of its own."""
        number, job = next(self._numbers), self.waiting.popleft()
        self.running[number] = job
        return number, job

    def _look(self, pictures: Sequence[Picture]) -> Tensor | None:
        begin = time.perf_counter()
        features_INE = self.features.of(cast(Sequence[KnownPicture], pictures))
        self.report("pictures", time.perf_counter() - begin)
        return features_INE

    def _tell(self, rows: Sequence[Row]) -> None:
        """Say each row's new token, where somebody still listens."""
        for row in rows:
            job = self.running[row.number]
            row.done = row.done or len(row.ids) - row.length >= job.decoding.max_new_tokens
            if not job.cancelled:
                logprob, likeliest = self.chooser.numbers.pop(row.number, (0.0, ()))
                job.tell(Token(row.ids[-1], logprob, likeliest))

    def _leave(self) -> None:
        """Rows that are done or unwanted go; what was computed of them is kept for the conversation's next turn."""
        gone = [row for row in self.rows.rows if row.done or self.running[row.number].cancelled]
        if not gone:
            return
        for index, row in enumerate(self.rows.rows):
            job = self.running[row.number]
            if row.done and not job.cancelled and self.rows.cache is not None and self.limits.turns:
                cache = take_row(self.rows.cache, index, len(row.ids) - 1)
                self.turns.keep(job.owner, row.ids[:-1], _keys(job), cache)
        for row in gone:
            job = self.running.pop(row.number)
            self.chooser.numbers.pop(row.number, None)
            job.tell(End("cancelled" if job.cancelled else self._reason(row)))
        self.rows.leave({row.number for row in gone})

    @staticmethod
    def _reason(row: Row) -> Reason:
        return "stop" if row.ids[-1] in row.choice.end_tokens or row.choice.ends(row.answer) else "length"


def _keys(job: Job) -> list[bytes]:
    return [picture.key for picture in job.pictures]


class _Chooser(OwlChatModel):
    """How tokens are chosen, by `owl chat`'s rules. Jobs that choose alike share one choice; a job has its length itself."""

    def __init__(self, owl: Owl) -> None:
        super().__init__(owl)
        self.numbers: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}  # of each row's last token
        self._choices: OrderedDict[tuple[Decoding, int | None], Choice] = OrderedDict()

    def choice(self, job: Job) -> Choice:
        """How a job's tokens are chosen."""
        decoding = replace(job.decoding, max_new_tokens=2**31 - 1)
        key = decoding, job.logprobs
        if key not in self._choices:
            config, ends = self._generation_config(decoding), partial(self._stops, decoding)
            self._choices[key] = (
                Choice(self.model, config, ends)
                if job.logprobs is None
                else _Measured(self.model, config, ends, job.logprobs, self.numbers)
            )
            if len(self._choices) > CHOICES:
                self._choices.popitem(last=False)
        self._choices.move_to_end(key)
        return self._choices[key]


class _Measured(Choice):
    """A choice that notes each token's log-probability, before temperature and penalties, and the likeliest tokens'."""

    def __init__(
        self,
        model: Any,
        config: GenerationConfig,
        ends: Callable[[Sequence[int]], bool],
        likeliest: int,
        numbers: dict[int, Any],
    ) -> None:
        super().__init__(model, config, ends)
        self.likeliest, self.numbers = likeliest, numbers

    def __call__(self, rows: Sequence[Row], logits_BV: Tensor) -> None:
        super().__call__(rows, logits_BV)
        logprobs_BV = logits_BV.float().log_softmax(-1)
        best = logprobs_BV.topk(max(self.likeliest, 1))
        for index, row in enumerate(rows):
            values, ids = best.values[index].tolist(), best.indices[index].tolist()
            pairs = tuple(zip(ids, values, strict=True))[: self.likeliest]
            self.numbers[row.number] = float(logprobs_BV[index, row.ids[-1]]), pairs
