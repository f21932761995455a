"""Ids in, ids out: many prompts are continued at once, and a row that is done leaves its place to the next prompt.

Shapes: B rows, T positions, V vocabulary, I images, N positions an image takes, E language width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import torch
from torch import FloatTensor, LongTensor, Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mplug_owl.chat.cache import join, joinable, keep_rows, trim
from mplug_owl.chat.lean import last_position_asked, prepare
from mplug_owl.conversation import Picture
from mplug_owl.model.config import max_positions
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

# So many prompts are read at once: fewer fill a core less, more leave its caches (benchmarks/exam.py).
PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class Prompt:
    """What is to be continued: token ids and the pictures among them. `seed` is for whoever draws its tokens."""

    ids: Sequence[int]
    pictures: Sequence[Picture] = ()
    seed: int = 0


@dataclass
class _Row:
    """A prompt on its way: `ids` grow from its first `length` on."""

    number: int
    ids: list[int]
    length: int
    random: torch.Generator
    done: bool = False


def decode(
    model: MplugOwlForConditionalGeneration,
    prompts: Iterable[Prompt],
    look: Callable[[Sequence[Picture]], Tensor | None],
    config: GenerationConfig,
    ends: Callable[[Sequence[int]], bool],
    batch_size: int,
) -> Iterator[tuple[int, list[int]]]:
    """Each prompt's number and the ids that follow it, as soon as they are whole. What a row says depends on no other row.

    Args:
        model: Who continues.
        prompts: Taken as places become free; like length beside like wastes least.
        look: Pictures to their features [I, N, E], in their order.
        config: How tokens are chosen, all of it.
        ends: Whether an answer of these ids is whole, its end token and its length aside.
        batch_size: At most so many rows at once.
    """
    rows, waiting = _Rows(model, look, config, ends), enumerate(prompts)
    while True:
        if not rows.rows or (len(rows.rows) <= batch_size // 2 and rows.joinable):
            while new := list(islice(waiting, min(PROMPTS_AT_ONCE, batch_size - len(rows.rows)))):
                rows.add(new)
                yield from rows.leave()
                if not (rows.joinable and len(rows.rows) < batch_size):
                    break
        if not rows.rows:
            return
        rows.step()
        yield from rows.leave()


@dataclass
class _Rows:
    """The rows that are being continued, and what was computed of them. The last id of each is not in the cache yet."""

    model: MplugOwlForConditionalGeneration
    look: Callable[[Sequence[Picture]], Tensor | None]
    config: GenerationConfig
    ends: Callable[[Sequence[int]], bool]
    rows: list[_Row] = field(default_factory=list)
    cache: Cache | None = None

    def __post_init__(self) -> None:
        self.device = self.model.device
        self.mask_BT = torch.empty(0, 0, dtype=torch.long, device=self.device)
        self.limit = max_positions(self.model.config.text_config)
        prepare(self.model, self.model.model.language_model)
        self.processors = self.model._get_logits_processor(self.config, input_ids_seq_length=1, device=self.device)

    @property
    def joinable(self) -> bool:
        """Whether other rows can come beside these."""
        return self.cache is None or joinable(self.cache)

    @torch.no_grad()
    def add(self, prompts: Sequence[tuple[int, Prompt]]) -> None:
        """Read these prompts and choose a first token for each."""
        new = [_Row(number, list(one.ids), len(one.ids), torch.Generator().manual_seed(one.seed)) for number, one in prompts]
        width = max(row.length for row in new)
        mask_BT = torch.tensor([[0] * (width - row.length) + [1] * row.length for row in new], device=self.device)
        features_INE = self.look([picture for _, one in prompts for picture in one.pictures])
        pictures = {} if features_INE is None else {"image": BaseModelOutputWithPooling(pooler_output=features_INE)}
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        with last_position_asked():
            logits_BV = self.model(
                input_ids=torch.tensor([[0] * (width - row.length) + row.ids for row in new], device=self.device),
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                mm_encoder_outputs=pictures or None,
            ).logits[:, -1]
        self._choose(new, logits_BV)
        if self.cache is None:
            self.mask_BT, self.cache = mask_BT, cache
        else:
            width = max(width, self.mask_BT.shape[1])
            self.mask_BT = torch.cat([pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask_BT, mask_BT)])
            join(self.cache, cache)
        self.rows += new

    @torch.no_grad()
    def step(self) -> None:
        """Read the last token of each row and choose one more."""
        self.mask_BT = pad(self.mask_BT, (0, 1), value=1)
        logits_BV = self.model(
            input_ids=torch.tensor([row.ids[-1:] for row in self.rows], device=self.device),
            attention_mask=self.mask_BT,
            position_ids=torch.tensor([[len(row.ids) - 1] for row in self.rows], device=self.device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self._choose(self.rows, logits_BV)

    def leave(self) -> list[tuple[int, list[int]]]:
        """Rows that are done go, with the padding that nobody else needs: their numbers and what followed their prompts."""
        stay = [index for index, row in enumerate(self.rows) if not row.done]
        done = [(row.number, row.ids[row.length :]) for row in self.rows if row.done]
        self.rows = [self.rows[index] for index in stay]
        if not self.rows:
            self.cache = None
        elif done and self.cache is not None:
            keep_rows(self.cache, torch.tensor(stay, device=self.device))
            self.mask_BT = self.mask_BT[stay]
            if self.joinable:
                width = max(len(row.ids) for row in self.rows) - 1
                trim(self.cache, width)
                self.mask_BT = self.mask_BT[:, -width:]
        return done

    def _choose(self, rows: Sequence[_Row], logits_BV: Tensor) -> None:
        """A token more for each row."""
        scores_BV = logits_BV.float()
        if self.processors:
            scores_BV = self.processors(_words(rows, self.device), cast(FloatTensor, scores_BV))
        chosen = _drawn(scores_BV, rows) if self.config.do_sample else scores_BV.argmax(-1)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.ids.append(token)
            whole = token == self.config.eos_token_id or len(row.ids) - row.length == self.config.max_new_tokens
            row.done = whole or len(row.ids) == self.limit or self.ends(row.ids[row.length :])


def _words(rows: Sequence[_Row], device: torch.device) -> LongTensor:
    """The rows' ids [B, T], in front of each its own first id: whatever looks tokens up finds none that the row has not."""
    width = max(len(row.ids) for row in rows)
    return cast(LongTensor, torch.tensor([row.ids[:1] * (width - len(row.ids)) + row.ids for row in rows], device=device))


def _drawn(scores_BV: Tensor, rows: Sequence[_Row]) -> Tensor:
    """A token for each row [B], drawn by the row's own random numbers: the same ones whichever rows stand beside it."""
    mass_BV = scores_BV.softmax(-1).cumsum(-1)
    points_B1 = torch.stack([torch.rand(1, generator=row.random) for row in rows]).to(scores_BV) * mass_BV[:, -1:]
    return torch.searchsorted(mass_BV, points_B1, right=True).squeeze(1).clamp(max=scores_BV.shape[1] - 1)
