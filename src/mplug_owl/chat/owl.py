"""Our own models as ChatModels: many conversations at once by `decode`, one as it comes by transformers' generate."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from threading import Event
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mplug_owl.chat.decode import Prompt, decode
from mplug_owl.chat.memory import keep_freed_memory
from mplug_owl.chat.pictures import PictureFeatures
from mplug_owl.chat.protocol import Decoding
from mplug_owl.chat.stats import Work
from mplug_owl.conversation import Conversation, ImageSource
from mplug_owl.model.generation import refuse_too_long
from mplug_owl.model.load import Owl
from mplug_owl.model.processor import Example
from mplug_owl.model.streaming import StopAtWords, StopWhenClosed, TokenQueue, clean_answer, stream_answer


@dataclass
class _Past:
    """What the last conversation computed: a cache of the keys and values of `ids`, and the features of its pictures."""

    ids: tuple[int, ...] = ()
    cache: Cache | None = None
    pictures: tuple[ImageSource, ...] = ()
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
        seeds = torch.randint(2**62, (len(samples),)).tolist() if decoding.temperature > 0 else [0] * len(samples)
        order = sorted(range(len(samples)), key=lambda index: len(samples[index]))
        prompts = (Prompt(samples[index].ids, conversations[index].pictures, seeds[index]) for index in order)
        config = self._generation_config(decoding)
        found = decode(self.model, prompts, self._look, config, partial(self._stops, decoding), self.batch_size)
        for number, ids in found:
            yield order[number], clean_answer(self._decode(ids), decoding.stop)

    def _stops(self, decoding: Decoding, ids: Sequence[int]) -> bool:
        """Whether an answer has one of the words that end it."""
        return bool(decoding.stop) and any(word in self._decode(ids) for word in decoding.stop)

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes. Closing the generator ends it within a token.

        Raises:
            UserError: The conversation is longer than the model's positions.
        """
        sample = self.processor.encode(conversation, reply=True)
        generate = partial(self._continue, sample, decoding)
        yield from stream_answer(generate, self._decode, decoding.stop)

    def _continue(self, sample: Example, decoding: Decoding, tokens: TokenQueue, closed: Event) -> None:
        """Generate after a prompt, from where it differs from the last one, and keep what was computed for the next."""
        past, self._past = self._past, _Past()  # whoever comes meanwhile, or after a failure, starts anew
        begin = perf_counter()
        features_INE = self._features(past, sample)
        picture_seconds = perf_counter() - begin
        known, cache = self._known(past, sample)
        inputs: dict[str, Any] = dict(self.processor.batch([replace(sample, pictures=())]).to(self.model.device))
        seen = sample.ids[:known].count(self.processor.image_token_id) // self.processor.num_image_tokens
        if features_INE is not None and seen < len(features_INE):
            inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features_INE[seen:])}
        if cache is not None:
            inputs["past_key_values"] = cache
        out = self._generate(inputs, decoding, tokens, StopWhenClosed(closed))
        self.work = Work(len(sample), known, out.sequences.shape[1] - len(sample), picture_seconds)
        if isinstance(out.past_key_values, Cache):
            ids = tuple(out.sequences[0, : out.past_key_values.get_seq_length()].tolist())
            self._past = _Past(ids, out.past_key_values, sample.pictures, features_INE)

    @torch.no_grad()
    def _features(self, past: _Past, sample: Example) -> Tensor | None:
        """The features of a prompt's pictures [I, N, E], those that the last prompt had taken from there."""
        alike = _alike(past.pictures, sample.pictures)
        features = [past.features[:alike]] if past.features is not None and alike else []
        if new := list(sample.pictures[alike:]):
            features.append(self._look.encode(new))
        return torch.cat(features) if features else None

    def _known(self, past: _Past, sample: Example) -> tuple[int, Cache | None]:
        """How many of a prompt's tokens a cache holds, and that cache; it holds no others.

        A cache of plain keys and values is cut to the tokens that both prompts begin with. Convolutions and full windows have
        forgotten what was before, so they serve only where the new prompt continues the old one. The answer's words may have
        other tokens in a prompt than were generated: then they are computed anew, or where nothing can be cut, everything.
        """
        left = pictures = _alike(past.pictures, sample.pictures) * self.processor.num_image_tokens
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
            if not all(map(_can_be_cut, past.cache.layers)):
                return 0, None
            past.cache.crop(-beyond)
        return known, past.cache

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.processor.decode(ids, skip_special_tokens=True))

    def _generate(
        self, inputs: Mapping[str, Any], decoding: Decoding, streamer: BaseStreamer | None = None, *criteria: StoppingCriteria
    ) -> GenerateDecoderOnlyOutput:
        """transformers' generate for a batch of prompts."""
        length = inputs["input_ids"].shape[1]
        stop_words = [StopAtWords(self._decode, decoding.stop, length)] if decoding.stop else []
        generate: Any = type(self.model).generate  # its self is a protocol, which mypy does not find in a model
        out: GenerateDecoderOnlyOutput = generate(
            self.model,
            **inputs,
            generation_config=self._generation_config(decoding),
            stopping_criteria=StoppingCriteriaList([*criteria, *stop_words]),
            streamer=streamer,
        )
        return out

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
            repetition_penalty=decoding.repetition_penalty,
            no_repeat_ngram_size=0,
            do_sample=draws,
            temperature=decoding.temperature if draws else 1.0,
            top_p=decoding.top_p if draws else 1.0,
            top_k=0 if draws else 50,  # transformers' own default, which it does not complain about
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            return_dict_in_generate=True,
        )


def _can_be_cut(layer: object) -> bool:
    """Whether a layer's cache still holds every position: keys and values do, a sliding window until it is full."""
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.get_seq_length() < layer.sliding_window
    return type(layer) is DynamicLayer


def _alike(ones: Sequence[ImageSource], others: Sequence[ImageSource]) -> int:
    """How many pictures both lists begin with. The very same objects: comparing every pixel would take as long as looking."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(ones, others, strict=False)))
