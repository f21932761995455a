"""Ids in, ids out: many prompts are continued at once, and a row that is done leaves its place to the next prompt.

Exams, `owl chat` and servers continue prompts by `Rows`: rows come and go between two tokens. `decode` does so for prompts
that are all there from the beginning. Shapes: B rows, T positions, V vocabulary, I images, N positions an image takes, E
language width.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import FloatTensor, LongTensor, Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mplug_owl.chat.cache import join, joinable, keep_rows, trim
from mplug_owl.chat.lean import computed_apart, last_position_asked, prepare
from mplug_owl.conversation import Picture
from mplug_owl.model.config import max_positions
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

# So many prompts are read at once: fewer fill a core less, more leave its caches (benchmarks/exam.py).
PROMPTS_AT_ONCE = 32

Look = Callable[[Sequence[Picture]], Tensor | None]


@dataclass(frozen=True)
class Prompt:
    """What is to be continued: token ids and the pictures among them. `seed` is for whoever draws its tokens.

    Args:
        ids: All of its tokens.
        pictures: Those of the tokens that are not known.
        seed: What its tokens are drawn by, whoever stands beside it.
        cache: What was computed of its first tokens, of one row. It is taken over, and grows.
    """

    ids: Sequence[int]
    pictures: Sequence[Picture] = ()
    seed: int = 0
    cache: Cache | None = None

    @property
    def known(self) -> int:
        """How many of its tokens are in its cache."""
        return 0 if self.cache is None else self.cache.get_seq_length()


class Choice:
    """How tokens are chosen and where an answer ends, for any number of rows.

    Args:
        model: Who continues.
        config: How tokens are chosen, all of it: transformers' logits processors, greedy or drawn; the end tokens; the length.
        ends: Whether an answer of these ids is whole, its end tokens and its length aside.
    """

    def __init__(
        self, model: MplugOwlForConditionalGeneration, config: GenerationConfig, ends: Callable[[Sequence[int]], bool]
    ) -> None:
        self.config, self.ends = config, ends
        ended = config.eos_token_id
        self.end_tokens = frozenset([ended] if isinstance(ended, int) else ended or [])
        self.limit = max_positions(model.config.text_config)
        self.processors = model._get_logits_processor(config, input_ids_seq_length=1, device=model.device)

    def __call__(self, rows: Sequence["Row"], logits_BV: Tensor) -> None:
        """A token more for each of these rows."""
        scores_BV = logits_BV.float()
        if self.processors:
            scores_BV = self.processors(_words(rows, scores_BV.device), cast(FloatTensor, scores_BV))
        chosen = _drawn(scores_BV, rows) if self.config.do_sample else scores_BV.argmax(-1)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.ids.append(token)
            whole = token in self.end_tokens or len(row.ids) - row.length == self.config.max_new_tokens
            row.done = whole or len(row.ids) == self.limit or self.ends(row.answer)


@dataclass
class Row:
    """A prompt on its way: `ids` grow from its first `length` on, a token with every step, until it is `done`."""

    number: int
    ids: list[int]
    length: int
    choice: Choice
    random: torch.Generator
    done: bool = False

    @property
    def answer(self) -> list[int]:
        """The ids that follow its prompt so far."""
        return self.ids[self.length :]


def decode(
    model: MplugOwlForConditionalGeneration,
    prompts: Iterable[Prompt],
    look: Look,
    config: GenerationConfig,
    ends: Callable[[Sequence[int]], bool],
    batch_size: int,
) -> Iterator[tuple[int, list[int]]]:
    """Each prompt's number and the ids that follow it, as soon as they are whole. What a row says depends on no other row.

    In 16 bits rounding does, unless they are continued one at a time: then each says what `owl chat` says.

    Args:
        model: Who continues.
        prompts: Taken as places become free; like length beside like wastes least.
        look: Pictures to their features [I, N, E], in their order.
        config: As in `Choice`.
        ends: As in `Choice`.
        batch_size: At most so many rows at once.
    """
    rows = Rows(model, look, apart=batch_size == 1)
    choice, waiting = Choice(model, config, ends), enumerate(prompts)
    while True:
        if not rows.rows or (len(rows.rows) <= batch_size // 2 and rows.joinable):
            while new := list(islice(waiting, min(PROMPTS_AT_ONCE, batch_size - len(rows.rows)))):
                rows.add(new, choice)
                yield from rows.leave()
                if not (rows.joinable and len(rows.rows) < batch_size):
                    break
        if not rows.rows:
            return
        rows.step()
        yield from rows.leave()


class Rows:
    """The rows that are being continued, and what was computed of them. The last id of each is not in the cache yet.

    Whoever serves adds prompts, steps, takes the rows' new tokens, and has rows leave, in any order: a row says what it would
    say alone, and each may be chosen for in its own way.

    Args:
        model: Who continues.
        look: Pictures to their features [I, N, E], in their order.
        apart: Whether rounding too is the same as alone, which `chat.lean` sees to on a CPU. Whoever reads many prompts at once
            and asks for speed alone leaves it out.
    """

    def __init__(self, model: MplugOwlForConditionalGeneration, look: Look, apart: bool = True) -> None:
        self.model, self.look, self.device = model, look, model.device
        self.rounding: Callable[[], AbstractContextManager[None]] = computed_apart if apart else nullcontext
        self.rows: list[Row] = []
        self.cache: Cache | None = None
        self.mask_BT = torch.empty(0, 0, dtype=torch.long, device=self.device)
        prepare(model, model.model.language_model)

    @property
    def joinable(self) -> bool:
        """Whether other rows can come beside these."""
        return self.cache is None or joinable(self.cache)

    @torch.no_grad()
    def add(self, prompts: Sequence[tuple[int, Prompt]], choice: Choice) -> list[Row]:
        """Read these prompts and choose a first token for each; returns their rows. One with a cache comes by itself."""
        new = [
            Row(number, list(one.ids), len(one.ids), choice, torch.Generator().manual_seed(one.seed)) for number, one in prompts
        ]
        known, cache = prompts[0][1].known, prompts[0][1].cache
        if len(prompts) > 1 and any(one.cache is not None for _, one in prompts):
            raise ValueError("a prompt with a cache is added by itself")
        width = max(row.length for row in new)
        mask_BT = torch.tensor([[0] * (width - row.length) + [1] * row.length for row in new], device=self.device)
        with self.rounding():
            features_INE = self.look([picture for _, one in prompts for picture in one.pictures])
        pictures = {} if features_INE is None else {"image": BaseModelOutputWithPooling(pooler_output=features_INE)}
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True)) if cache is None else cache
        with last_position_asked(), self.rounding():
            logits_BV = self.model(
                input_ids=torch.tensor([([0] * (width - row.length) + row.ids)[known:] for row in new], device=self.device),
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0)[:, known:],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                mm_encoder_outputs=pictures or None,
            ).logits[:, -1]
        choice(new, logits_BV)
        if self.cache is None:
            self.mask_BT, self.cache = mask_BT, cache
        else:
            width = max(width, self.mask_BT.shape[1])
            self.mask_BT = torch.cat([pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask_BT, mask_BT)])
            join(self.cache, cache)
        self.rows += new
        return new

    @torch.no_grad()
    def step(self) -> None:
        """Read the last token of each row and choose one more."""
        self.mask_BT = pad(self.mask_BT, (0, 1), value=1)
        with self.rounding():
            logits_BV = self.model(
                input_ids=torch.tensor([row.ids[-1:] for row in self.rows], device=self.device),
                attention_mask=self.mask_BT,
                position_ids=torch.tensor([[len(row.ids) - 1] for row in self.rows], device=self.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        choices = list({id(row.choice): row.choice for row in self.rows}.values())
        for choice in choices:
            chosen = [index for index, row in enumerate(self.rows) if row.choice is choice]
            choice([self.rows[index] for index in chosen], logits_BV if len(choices) == 1 else logits_BV[chosen])

    def leave(self, cancelled: Collection[int] = ()) -> list[tuple[int, list[int]]]:
        """Rows that are done go, with the padding that nobody else needs: their numbers and what followed their prompts.

        So do rows with the numbers of those that are cancelled, which are not among what is returned.
        """
        gone = [row.done or row.number in cancelled for row in self.rows]
        done = [(row.number, row.answer) for row in self.rows if row.done and row.number not in cancelled]
        stay = [index for index, left in enumerate(gone) if not left]
        self.rows = [self.rows[index] for index in stay]
        if not self.rows:
            self.cache = None
        elif any(gone) and self.cache is not None:
            keep_rows(self.cache, torch.tensor(stay, device=self.device))
            self.mask_BT = self.mask_BT[stay]
            if self.joinable:
                width = max(len(row.ids) for row in self.rows) - 1
                trim(self.cache, width)
                self.mask_BT = self.mask_BT[:, -width:]
        return done


def _words(rows: Sequence[Row], device: torch.device) -> LongTensor:
    """The rows' ids [B, T], in front of each its own first id: whatever looks tokens up finds none that the row has not."""
    width = max(len(row.ids) for row in rows)
    return cast(LongTensor, torch.tensor([row.ids[:1] * (width - len(row.ids)) + row.ids for row in rows], device=device))


def _drawn(scores_BV: Tensor, rows: Sequence[Row]) -> Tensor:
    """A token for each row [B], drawn by the row's own random numbers: the same ones whichever rows stand beside it."""
    mass_BV = scores_BV.softmax(-1).cumsum(-1)
    points_B1 = torch.stack([torch.rand(1, generator=row.random) for row in rows]).to(scores_BV) * mass_BV[:, -1:]
    return torch.searchsorted(mass_BV, points_B1, right=True).squeeze(1).clamp(max=scores_BV.shape[1] - 1)
