"""Any image-text-to-text model of transformers as a ChatModel, by its own processor and transformers' generate."""

import copy
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from threading import Event
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mplug_owl.chat.auto_classes import open_model
from mplug_owl.chat.prompts import WITHOUT_TEMPLATE, render_prompt
from mplug_owl.chat.protocol import COLDEST, Decoding
from mplug_owl.chat.settled import clean_answer, decoded_answer, settled_parts
from mplug_owl.chat.streaming import StopAtWords, StopWhenClosed, TokenQueue, generated_tokens
from mplug_owl.conversation import Conversation
from mplug_owl.errors import RefusedConversationError
from mplug_owl.model.images import open_image


class HuggingFaceChatModel:
    """A model of transformers with its processor as a ChatModel: LLaVA, BLIP-2, Idefics, SmolVLM, Qwen-VL and others.

    Args:
        model: What AutoModelForImageTextToText gives.
        processor: What AutoProcessor gives for it.
        batch_size: How many conversations the model is given at once.
    """

    def __init__(self, model: Any, processor: Any, batch_size: int = 8) -> None:
        self.model, self.processor, self.batch_size = model.eval(), processor, batch_size
        self.model_type = str(model.config.model_type)
        # BLIP-2 and InstructBLIP generate with a model inside the model.
        self._generating = model.language_model if self.model_type in WITHOUT_TEMPLATE else model
        self._is_encoder_decoder = bool(self._generating.config.is_encoder_decoder)
        if not self._is_encoder_decoder:  # the answers begin where the prompts end
            processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    @classmethod
    def open(
        cls, name: str, device: str | torch.device | None = None, dtype: str | torch.dtype = "auto", batch_size: int = 8
    ) -> "HuggingFaceChatModel":
        """The model of a folder or a hub id. Raises UserError as `open_model` does."""
        return cls(*open_model(name, device, dtype), batch_size)

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order. Raises UserError as `arriving` does."""
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Generator[tuple[int, str], None, None]:
        """Each answer with its conversation's position, a batch at a time, short prompts first.

        Raises:
            UserError: The model cannot be given such a conversation: it is too long, or has more pictures than the model sees.
            BadSample: A picture cannot be opened.
        """
        prompts = [self._prompt(conversation) for conversation in conversations]
        order = sorted(range(len(prompts)), key=lambda index: (bool(conversations[index].pictures), len(prompts[index])))
        while order:
            pictured = bool(conversations[order[0]].pictures)  # processors take all with pictures, or all without
            batch = [index for index in order[: self.batch_size] if bool(conversations[index].pictures) == pictured]
            inputs = self._inputs([prompts[index] for index in batch], [conversations[index] for index in batch])
            if len(batch) > 1 and self._room(inputs["input_ids"].shape[1]) < decoding.max_new_tokens:
                batch = batch[:1]  # the longest prompt would leave the others' answers no more room than its own
                inputs = self._inputs([prompts[batch[0]]], [conversations[batch[0]]])
            order = order[len(batch) :]
            ids_BT = self._generate(inputs, decoding)
            for index, ids in zip(batch, ids_BT.tolist(), strict=True):
                yield index, clean_answer(self._decode(ids), decoding.stop)

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes. Closing the generator ends it within a token. Raises as `arriving` does."""
        inputs = self._inputs([self._prompt(conversation)], [conversation])

        def generate(tokens: TokenQueue, closed: Event) -> None:
            self._generate(inputs, decoding, tokens, StopWhenClosed(closed))

        with closing(generated_tokens(generate)) as ids:
            yield from settled_parts(ids, self._decode, decoding.stop)

    def _prompt(self, conversation: Conversation) -> str:
        if self.model_type in WITHOUT_TEMPLATE and len(conversation.pictures) > 1:
            raise RefusedConversationError(
                f"a {self.model_type} model sees one picture, and the conversation has {len(conversation.pictures)}"
            )
        return render_prompt(conversation, self.processor, self.model_type)

    def _inputs(self, prompts: list[str], conversations: Sequence[Conversation]) -> dict[str, Any]:
        """What the model is given for a batch of prompts, all of them with pictures or all without."""
        pictures: list[list[Image.Image]] = [
            [open_image(picture.source).convert("RGB") for picture in conversation.pictures] for conversation in conversations
        ]
        bos = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=prompts,
            images=pictures if any(pictures) else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (bos and prompts[0].startswith(bos)),  # a template may write it
        )
        for name in ("qformer_input_ids", "qformer_attention_mask"):
            if name in inputs:  # InstructBLIP's Q-Former reads the beginning of what is asked, as its authors cut it
                inputs[name] = inputs[name][:, : self.model.config.qformer_config.max_position_embeddings]
        return dict(inputs.to(self.model.device, dtype=self.model.dtype))

    @torch.no_grad()
    def _generate(
        self, inputs: dict[str, Any], decoding: Decoding, streamer: BaseStreamer | None = None, *criteria: StoppingCriteria
    ) -> Tensor:
        """The ids of the answers [B, T], without their prompts."""
        model, length = self.model, inputs["input_ids"].shape[1]
        if model is not self._generating and "pixel_values" not in inputs:  # without a picture its language model answers alone
            model, inputs = self._generating, {name: inputs[name] for name in ("input_ids", "attention_mask")}
        begins = 1 if self._is_encoder_decoder else length
        stop_words = [StopAtWords(self._decode, decoding.stop, begins)] if decoding.stop else []
        ids_BT: Tensor = model.generate(
            **inputs,
            generation_config=self._generation_config(decoding, length),
            stopping_criteria=StoppingCriteriaList([*criteria, *stop_words]),
            streamer=streamer,
        )
        return ids_BT[:, begins:]

    def _decode(self, ids: Sequence[int]) -> str:
        """An answer's words. What ends it is none of them, even where the tokenizer does not call it special."""
        ended = self._generating.generation_config.eos_token_id
        ended = self.processor.tokenizer.eos_token_id if ended is None else ended
        ends = ended if isinstance(ended, list) else [ended]
        said = [token for token in ids if token not in ends]
        return decoded_answer(said, lambda some: str(self.processor.tokenizer.decode(some, skip_special_tokens=True)))

    def _room(self, length: int) -> int:
        """How many tokens the model has room for after a prompt of this length."""
        positions = getattr(self._generating.config.get_text_config(), "max_position_embeddings", None)
        return sys.maxsize if positions is None or self._is_encoder_decoder else positions - length

    def _generation_config(self, decoding: Decoding, length: int) -> GenerationConfig:
        """The checkpoint's own marks of begin and end, and everything else as the decoding says."""
        if (room := self._room(length)) <= 0:
            raise RefusedConversationError(
                f"the conversation has {length:,} tokens, and the model ends at {length + room:,}; expected fewer"
            )
        tokenizer, draws = self.processor.tokenizer, decoding.temperature > 0
        config: GenerationConfig = copy.deepcopy(self._generating.generation_config)
        if config.eos_token_id is None:
            config.eos_token_id = tokenizer.eos_token_id
        config.update(  # what is None here, generate takes from the checkpoint
            max_length=None,
            max_new_tokens=min(decoding.max_new_tokens, room),
            min_length=None,
            min_new_tokens=0,
            num_beams=1,
            num_return_sequences=1,
            repetition_penalty=float(decoding.repetition_penalty),  # transformers takes no whole number
            no_repeat_ngram_size=0,
            do_sample=draws,
            temperature=max(float(decoding.temperature), COLDEST) if draws else 1.0,
            top_p=decoding.top_p if draws else 1.0,
            min_p=0.0 if draws else None,
            typical_p=1.0,
            top_k=0 if draws else 50,  # transformers' own default, which it does not complain about
            pad_token_id=tokenizer.pad_token_id,
        )
        return config
