"""Our own models as ChatModels: many conversations at once, or one as it comes, both by what `decode` holds."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from time import perf_counter

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from mplug_owl.chat.cache import can_be_cut
from mplug_owl.chat.decode import Choice, Prompt, Rows, decode
from mplug_owl.chat.lean import computed_apart
from mplug_owl.chat.memory import keep_freed_memory
from mplug_owl.chat.pictures import PictureFeatures
from mplug_owl.chat.protocol import COLDEST, Decoding
from mplug_owl.chat.settled import clean_answer, decoded_answer, settled_parts
from mplug_owl.chat.stats import Work
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.generation import refuse_too_long
from mplug_owl.model.load import Owl
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import Example, MplugOwlProcessor


@dataclass
class _Past:
    """What the last conversation computed: a cache of the keys and values of `ids`, and the features of its pictures."""

    ids: tuple[int, ...] = ()
    cache: Cache | None = None
    pictures: tuple[Picture, ...] = ()
    features: Tensor | None = None  # [I, N, E]


class OwlChatModel:
    """One of our models as a ChatModel.

    `stream` keeps what it computed of a conversation. Where the next conversation begins with the same tokens and pictures,
    only the rest is computed.

    Args:
        owl: Model and processor.
        batch_size: At most so many conversations are answered at once.

    Example:
        >>> from mplug_owl import Conversation, Decoding, OwlChatModel, load
        >>> asked = Conversation(()).said("user", "What is 3 plus 4?")
        >>> OwlChatModel(load("owl-tiny")).answers([asked], Decoding())  # doctest: +SKIP
        ['7']
    """

    def __init__(self, owl: Owl, batch_size: int = 100) -> None:
        self.model, self.processor, self.batch_size = owl.model, owl.processor, batch_size
        self._past = _Past()
        self.work: Work | None = None  # what the last streamed answer took
        self._look = PictureFeatures(owl)
        if owl.model.device.type == "cpu":
            keep_freed_memory()

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation. Text alone and pictures mix freely.

        Raises:
            UserError: A conversation is longer than the model's positions.
        """
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Each answer as soon as it is whole, with its conversation's position. Short conversations come first.

        What is said in one depends on no other, and where words are drawn, on torch's seed and the position.

        Raises:
            UserError: A conversation is longer than the model's positions. Then none is answered.
        """
        samples = self.processor.encode_all(conversations, reply=True)
        for sample in samples:
            refuse_too_long(len(sample), self.model.config.text_config)
        seeds = self._seeds(len(samples), decoding)
        order = sorted(range(len(samples)), key=lambda index: len(samples[index]))
        prompts = (Prompt(samples[index].ids, conversations[index].pictures, seeds[index]) for index in order)
        config = self._generation_config(decoding)
        found = decode(self.model, prompts, self._look, config, partial(self._stops, decoding), self.batch_size)
        for number, ids in found:
            yield order[number], clean_answer(self._decode(ids), decoding.stop)

    def _seeds(self, count: int, decoding: Decoding) -> list[int]:
        """What the tokens of so many answers are drawn by, where they are drawn."""
        return torch.randint(2**62, (count,)).tolist() if decoding.temperature > 0 else [0] * count

    def _choice(self, decoding: Decoding) -> Choice:
        return Choice(self.model, self._generation_config(decoding), partial(self._stops, decoding))

    def _stops(self, decoding: Decoding, ids: Sequence[int]) -> bool:
        """Whether an answer has one of the words that end it."""
        return bool(decoding.stop) and any(word in self._decode(ids) for word in decoding.stop)

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes; closing the generator ends it. The parts joined are what `answers` gives.

        Raises:
            UserError: The conversation is longer than the model's positions.
        """
        sample = self.processor.encode(conversation, reply=True)
        refuse_too_long(len(sample), self.model.config.text_config)
        with closing(self._continue(sample, conversation.pictures, decoding)) as tokens:
            yield from settled_parts(tokens, self._decode, decoding.stop)

    def _continue(self, sample: Example, pictures: tuple[Picture, ...], decoding: Decoding) -> Generator[int, None, None]:
        """The tokens after a prompt, computed from where it differs from the last one. What was computed is kept."""
        past, self._past = self._past, _Past()  # whoever comes meanwhile, or after a failure, starts anew
        begin = perf_counter()
        features_INE = self._features(past, pictures)
        picture_seconds = perf_counter() - begin
        known, cache = self._known(past, sample, pictures)
        seen = sample.ids[:known].count(self.processor.image_token_id) // self.processor.num_image_tokens
        prompt = Prompt(sample.ids, pictures[seen:], self._seeds(1, decoding)[0], cache)
        rows = Rows(self.model, lambda new: features_INE[seen:] if features_INE is not None and new else None)
        is_whole = False  # whether every layer holds the same tokens
        try:
            (row,) = rows.add([(0, prompt)], self._choice(decoding))
            while True:
                is_whole = True
                yield row.ids[-1]
                if row.done:
                    return
                is_whole = False
                rows.step()
        finally:
            if is_whole:
                self.work = Work(len(sample), known, len(row.answer), picture_seconds)
                self._past = _Past(tuple(row.ids[:-1]), rows.cache, pictures, features_INE)

    @torch.no_grad()
    def _features(self, past: _Past, pictures: Sequence[Picture]) -> Tensor | None:
        """The features of a prompt's pictures [I, N, E], those that the last prompt had taken from there."""
        alike = _alike(past.pictures, pictures)
        features = [past.features[:alike]] if past.features is not None and alike else []
        if new := [picture.source for picture in pictures[alike:]]:
            with computed_apart():  # as if each had come by itself: a server knows some of them from before
                features.append(self._look.encode(new))
        return torch.cat(features) if features else None

    def _known(self, past: _Past, sample: Example, shown: Sequence[Picture]) -> tuple[int, Cache | None]:
        """How many of a prompt's tokens a cache holds, and that cache; it holds no others.

        A cache of plain keys and values is cut to the tokens that both prompts begin with. Convolutions and full windows have
        forgotten what was before, so they serve only where the new prompt continues the old one. The answer's words may have
        other tokens in a prompt than were generated: then they are computed anew, or where nothing can be cut, everything.
        """
        left = pictures = _alike(past.pictures, shown) * self.processor.num_image_tokens
        known = 0
        for old, new in zip(past.ids, sample.ids[:-1], strict=False):  # the last token is computed: its logits are needed
            picture = new == self.processor.image_token_id
            if old != new or (picture and not left):
                break
            known, left = known + 1, left - picture
        known -= (pictures - left) % self.processor.num_image_tokens  # a picture is known whole or not at all
        if past.cache is None or not known:
            return 0, None
        if beyond := len(past.ids) - known:
            if not can_be_cut(past.cache):
                return 0, None
            past.cache.crop(-beyond)
        return known, past.cache

    def _decode(self, ids: Sequence[int]) -> str:
        return answer_words(self.model, self.processor, ids)

    def _generation_config(self, decoding: Decoding) -> GenerationConfig:
        """A decoding in transformers' words.

        Said in full: what is left out, transformers takes from the checkpoint's own file, which is meant for other programs.
        """
        tokenizer, draws = self.processor.tokenizer, decoding.temperature > 0
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            min_new_tokens=0,
            num_beams=1,
            num_return_sequences=1,
            repetition_penalty=float(decoding.repetition_penalty),  # transformers takes no whole number
            no_repeat_ngram_size=0,
            do_sample=draws,
            temperature=max(float(decoding.temperature), COLDEST) if draws else 1.0,
            top_p=decoding.top_p if draws else 1.0,
            top_k=0 if draws else 50,  # transformers' own default, which it does not complain about
            eos_token_id=_end_token_ids(self.model, self.processor),
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )


def answer_words(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor, ids: Sequence[int]) -> str:
    """An answer's ids to words. What ends it is none of them, even where the tokenizer does not call it special."""
    ends = _end_token_ids(model, processor)
    said = [token for token in ids if token not in ends]
    return decoded_answer(said, lambda some: str(processor.decode(some, skip_special_tokens=True)))


def _end_token_ids(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> list[int]:
    """What ends an answer: the end token, and in a chat format of the model's own all that it ends with."""
    ends = [*processor.end_token_ids]
    if processor.chat_format is not None:
        more = model.generation_config.eos_token_id
        ends += [more] if isinstance(more, int) else more or []
    return [*dict.fromkeys(ends)]


def _alike(ones: Sequence[Picture], others: Sequence[Picture]) -> int:
    """How many pictures both lists begin with. The very same objects: a file, or an opened picture, may have changed since."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(ones, others, strict=False)))
