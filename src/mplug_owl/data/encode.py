"""Encoding: a conversation to the token ids one training step reads, which of them are learned, and its pictures."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mplug_owl.conversation import Conversation, ImageSource, Piece
from mplug_owl.model.processor import Encoded, MplugOwlProcessor

Learn = Literal["answers", "everything"]
Style = Literal["owl", "original"]


@dataclass(frozen=True)
class Example:
    """What one conversation gives to learn from. `cut` counts the tokens that did not fit."""

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    pictures: tuple[ImageSource, ...]
    name: str
    cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def encode(
    conversation: Conversation,
    processor: MplugOwlProcessor,
    max_tokens: int,
    learn: Learn = "answers",
    pictures: bool = True,
    style: Style = "owl",
) -> Example:
    """Turn a conversation into an example of at most `max_tokens` positions.

    A picture that does not fit ends the example in front of it. An answer that does not fit keeps what fits and no end
    token: its last word is not where it ends. `learn="everything"` learns every word, the prompt's too, and the end
    token behind the last one. `pictures=False` leaves the pictures out. `style="original"` cuts the text where the
    original's training did, for comparing with it.
    """
    if max_tokens < 2:
        raise ValueError(f"max_tokens is {max_tokens}; an example needs at least 2 positions")
    if not pictures:
        conversation = without_pictures(conversation)
    if style == "original":
        if learn != "answers":
            raise ValueError('style "original" learns answers only, as the original does')
        return _as_original(conversation, processor, max_tokens)
    whole = processor.encode(conversation)
    if whole.loss_mask[:1] == (True,):  # no begin token, so nothing predicts the first word
        whole = replace(whole, loss_mask=(False, *whole.loss_mask[1:]))
    if learn == "everything":
        whole = _everything(whole, processor)
    length, kept = _fitting(whole, processor, max_tokens)
    return Example(
        whole.ids[:length], whole.loss_mask[:length], whole.pictures[:kept], conversation.name, cut=len(whole) - length
    )


def without_pictures(conversation: Conversation) -> Conversation:
    """The words alone; a message that was only pictures goes."""
    messages = (
        replace(message, parts=tuple(part for part in message.parts if isinstance(part, str)))
        for message in conversation.messages
    )
    return replace(conversation, messages=tuple(message for message in messages if message.parts))


def _everything(whole: Encoded, processor: MplugOwlProcessor) -> Encoded:
    """Every word is learned, as in language modelling: all but the first, which nothing predicts, and the pictures."""
    end = processor.tokenizer.eos_token_id
    ids = whole.ids if whole.ids[-1:] == (end,) else (*whole.ids, end)
    loss_mask = tuple(place > 0 and token != processor.image_token_id for place, token in enumerate(ids))
    return Encoded(ids, loss_mask, whole.pictures)


def _fitting(whole: Encoded, processor: MplugOwlProcessor, max_tokens: int) -> tuple[int, int]:
    """How many positions fit without cutting a picture in two, and how many pictures stand in them."""
    ids, picture, width = whole.ids[:max_tokens], processor.image_token_id, processor.num_image_tokens
    kept, part = divmod(ids.count(picture), width)
    if part:  # the last picture's first positions are all that is left of it
        return len(ids) - part, kept
    return len(ids), kept


def _as_original(conversation: Conversation, processor: MplugOwlProcessor, max_tokens: int) -> Example:
    """The original's training chunks: role marks split the prompt, and each chunk is tokenised on its own.

    Up to `max_tokens` + 1 ids, since the original counts targets; a cut answer is closed by the end token. Where the
    original takes the wrong words for an answer (an empty one, "AI: " inside one), the right ones are learned.
    """
    begin, room = processor.encode_pieces([]).ids, max_tokens + 1
    ids, loss_mask, kept, cut, full = list(begin), [False] * len(begin), 0, 0, False
    for piece in _original_chunks(conversation.pieces()):
        # The end token is set below. What looks like a special token is one here, as it was in the original.
        tokens = processor.encode_pieces([replace(piece, supervised=False)], plain=False).ids[len(begin) :]
        whole = len(tokens) + piece.supervised
        full = full or len(ids) >= room or (piece.text is None and len(ids) + whole > room)
        if full:
            cut += whole
            continue
        tokens = tokens[: room - piece.supervised - len(ids)] + (processor.tokenizer.eos_token_id,) * piece.supervised
        cut += whole - len(tokens)
        kept += piece.text is None
        ids += tokens
        loss_mask += [piece.supervised] * len(tokens)
    sources = tuple(picture.source for picture in conversation.pictures[:kept])
    return Example(tuple(ids), tuple(loss_mask), sources, conversation.name, cut)


def _original_chunks(pieces: list[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        if piece.text is None or piece.supervised:
            yield piece
        else:
            yield from (Piece(chunk) for chunk in re.split("(AI: |\nHuman: )", piece.text) if chunk)
