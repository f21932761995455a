"""Conversations to ids and back: the half of the processor that training and chatting call.

There is one way from words to ids, `encode`, for both. It knows where pictures stand because it puts them there; it never
looks for a placeholder in what somebody typed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from mplug_owl.conversation import IMAGE_MARK, OWL, SYSTEM_PROMPT, Conversation, ImageSource, Piece
from mplug_owl.errors import UserError
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.template import ChatFormat, chat_format
from mplug_owl.model.template_additions import is_prepared

TokenIds = int | Sequence[int] | Sequence[Sequence[int]] | Tensor
# `Conversation.prompt` as a template, for programs that render chats themselves.
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text("utf-8").replace("SYSTEM_PROMPT", SYSTEM_PROMPT)


@dataclass(frozen=True)
class Example:
    """Token ids, which of them are supervised, and the pictures that fill the picture positions, in order.

    `name` says where it came from, for error messages; `cut` counts the tokens that did not fit.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    pictures: tuple[Any, ...] = ()
    name: str = ""
    cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class ConversationProcessor(ProcessorMixin):
    """Tokenizer and image processor of one owl; see `MplugOwlProcessor`, which is what transformers knows of it."""

    image_token = IMAGE_MARK
    model_input_names = ["input_ids", "attention_mask", "pixel_values"]
    # The model's, where there is one: its image_token_id moves when its embeddings are resized.
    _config: MplugOwlConfig | None = None

    def __init__(
        self,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int,
        image_token_id: int,
        chat_template: str | None = CHAT_TEMPLATE,
        **kwargs: object,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if tokenizer.eos_token_id is None:
            raise UserError(f"{type(tokenizer).__name__} has no end token (eos_token): an answer could never end")
        tokenizer.padding_side = "left"  # transformers' pipeline pads by it, and an answer begins at the right end
        self.num_image_tokens = num_image_tokens
        self._image_token_id = image_token_id

    def follow(self, config: MplugOwlConfig) -> None:
        """Take `image_token_id` from a model's config from now on, so that it moves with the model's embedding table."""
        self._config = config

    @property
    def image_token_id(self) -> int:
        """What marks the positions of pictures. It stands after the tokens that the tokenizer was given since."""
        marked = self._image_token_id if self._config is None else self._config.image_token_id
        if marked >= len(self.tokenizer) or self.tokenizer.convert_ids_to_tokens(marked) == IMAGE_MARK:
            return marked
        return len(self.tokenizer)

    @property
    def chat_format(self) -> ChatFormat | None:
        """The language model's own, None for the original's prompt.

        Raises:
            UserError: The processor has another chat template, whose words ours would not be.
        """
        template = self.chat_template
        if template is None or template == CHAT_TEMPLATE:
            return None
        if not isinstance(template, str) or not is_prepared(template):
            raise UserError(
                "chat_template: this processor's is neither the original's format nor a language model's own as owls keep it; "
                "build the model with prompt=FILE, or use apply_chat_template(tokenize=True) and generate"
            )
        return chat_format(template, self.tokenizer)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: the one that learned answers end with first."""
        end = self.tokenizer.eos_token_id
        return (end,) if self.chat_format is None else tuple(dict.fromkeys((self.chat_format.end_of_turn, end)))

    @property
    def _pad_token_id(self) -> int:
        """What fills a row up. Nobody reads it, but the embedding table must hold it."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        if pad is None or (self._config is not None and pad >= self._config.text_config.vocab_size):
            return end
        return pad

    # Words and pictures to ids

    def encode(
        self,
        conversation: Conversation,
        reply: bool = False,
        known: Mapping[str, list[int]] | None = None,
        unfinished: bool = False,
    ) -> Example:
        """A conversation to ids: the begin token, prompt words, picture positions, answers each closed by the end token.

        By the language model's own chat format where the processor has one; a conversation in a style of its own stays in it.
        What a user typed is plain text, special tokens and `<image>` included. `reply` ends where the assistant begins,
        `unfinished` within the last answer. `known` has the ids of some texts.

        Raises:
            UserError: The chat format refuses the conversation.
        """
        pictures = tuple(picture.source for picture in conversation.pictures)
        if self.chat_format is not None and conversation.style == OWL:
            if unfinished and not conversation.messages[-1].text.strip():  # which a template may leave out
                conversation, reply, unfinished = replace(conversation, messages=conversation.messages[:-1]), True, False
            positions = [self.image_token_id] * self.num_image_tokens
            ids, mask = self.chat_format.encode(conversation, positions, reply, unfinished)
            return Example(tuple(ids), tuple(mask), pictures, conversation.name)
        pieces = conversation.pieces(reply)
        whole = replace(self.encode_pieces(pieces, pictures, known=known), name=conversation.name)
        if unfinished and pieces[-1].answer:  # an empty answer has no end token
            return replace(whole, ids=whole.ids[:-1], loss_mask=whole.loss_mask[:-1])
        return whole

    def encode_all(self, conversations: Iterable[Conversation], reply: bool = False) -> list[Example]:
        """Conversations to ids, each as `encode` gives it. All texts are tokenised at once, what several say only once."""
        talks = list(conversations)
        if self.chat_format is not None:
            return [self.encode(talk, reply) for talk in talks]
        texts = {piece.text: None for talk in talks for piece in talk.pieces(reply) if piece.text}
        found = self._tokenised([*texts]) if texts else []
        known = dict(zip(texts, found, strict=True))
        return [self.encode(talk, reply, known) for talk in talks]

    def encode_pieces(
        self,
        pieces: Iterable[Piece],
        pictures: Sequence[ImageSource] = (),
        plain: bool = True,
        opens: bool = True,
        known: Mapping[str, list[int]] | None = None,
    ) -> Example:
        """Rendered pieces to ids, each stretch of text on its own.

        `plain=False` reads special tokens in them, `opens=False` leaves the begin token out. `known` has the ids of some texts.
        """
        begin = self.tokenizer.bos_token_id if opens else None
        ids, loss_mask = ([begin], [False]) if begin is not None else ([], [])
        for piece in pieces:
            tokens: list[int]
            if piece.text is None:
                tokens = [self.image_token_id] * self.num_image_tokens
            else:
                tokens = known[piece.text] if known and piece.text in known else self._tokenised(piece.text, plain)
                if piece.answer:
                    tokens = [*tokens, self.tokenizer.eos_token_id]
            ids.extend(tokens)
            loss_mask.extend([piece.supervised] * len(tokens))
        return Example(tuple(ids), tuple(loss_mask), tuple(pictures))

    def _tokenised(self, text: str | list[str], plain: bool = True) -> Any:
        """The ids of a text, or of each of several."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]

    def batch(
        self,
        samples: Sequence[Example],
        side: str = "left",
        labels: bool = False,
        pixel_values: Tensor | None = None,
        length: int = 0,
    ) -> BatchFeature:
        """Samples to one padded batch: `input_ids` and `attention_mask` [B, T], `pixel_values` [I, 3, S, S] if any.

        `labels` adds the supervised ids, -100 elsewhere. `pixel_values` are given where pictures were opened before,
        and T is `length` where that is longer than the longest sample.
        """
        length = max(length, *(len(sample) for sample in samples))

        def padded(rows: Iterable[Sequence[int]], filler: int) -> Tensor:
            filled = [(list(row), [filler] * (length - len(row))) for row in rows]
            return torch.tensor([gap + row if side == "left" else row + gap for row, gap in filled])

        batch = {
            "input_ids": padded([sample.ids for sample in samples], self._pad_token_id),
            "attention_mask": padded([[1] * len(sample) for sample in samples], 0),
        }
        if labels:
            targets = [
                [token if supervised else -100 for token, supervised in zip(sample.ids, sample.loss_mask, strict=True)]
                for sample in samples
            ]
            batch["labels"] = padded(targets, -100)
        if pixel_values is None and (pictures := [picture for sample in samples for picture in sample.pictures]):
            pixel_values = self.image_processor(pictures)["pixel_values"]
        if pixel_values is not None:
            batch["pixel_values"] = pixel_values
        return BatchFeature(batch)

    # Ids to words

    def decode(self, token_ids: TokenIds, **kwargs: object) -> str | list[str]:
        """Ids, or rows of ids, to text, without picture positions."""
        rows: Any = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(rows, Sequence) and rows and (isinstance(rows[0], (list, tuple)) or getattr(rows[0], "ndim", False)):
            return self.batch_decode(rows, **kwargs)
        row, image = rows if isinstance(rows, Sequence) else [rows], self.image_token_id
        return self.tokenizer.decode([int(token) for token in row if int(token) != image], **kwargs)

    def batch_decode(self, sequences: Sequence[Sequence[int]] | Tensor, **kwargs: object) -> list[str]:
        """Rows of ids to texts, without picture positions."""
        return [str(self.decode(row, **kwargs)) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Sequence[Sequence[int]] | Tensor, skip_special_tokens: bool = True, **kwargs: object
    ) -> list[str]:
        """What transformers' pipeline calls on generate's output."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)
