"""Encoding: a conversation to the token ids one training step reads, which of them are supervised, and its pictures."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mplug_owl.conversation import OWL, Conversation, Piece
from mplug_owl.errors import BadSample, RefusedConversationError, UserError
from mplug_owl.model.processor import Example, MplugOwlProcessor

Learn = Literal["answers", "everything"]
Style = Literal["owl", "original"]
Weigh = Literal["tokens", "answers"]


@dataclass(frozen=True)
class Encoding:
    """How a conversation becomes an example of at most `max_tokens` positions, and examples become a batch.

    `learn="everything"` supervises every word, the prompt's too, and the end token after the last one. `pictures=False`
    leaves the pictures out. `style="original"` cuts the text where the original's training did, for comparing with it.

    `pack` lays examples end to end in rows of at most that many positions, one row a forward pass; None pads them.
    `crop` shows a random part of each picture, at least that share of its area, or the middle of one that is much wider or
    taller than 4:3; None shows all of it. `caption_prompts` asks for captions in one of several sentences, where the original
    shows the picture alone. `weigh="answers"` lets every answer count the same, a yes as much as a long list; by "tokens"
    longer answers count more.
    """

    max_tokens: int
    learn: Learn = "answers"
    pictures: bool = True
    style: Style = "owl"
    pack: int | None = None
    crop: float | None = None
    caption_prompts: bool = False
    weigh: Weigh = "tokens"


def encode(conversation: Conversation, processor: MplugOwlProcessor, encoding: Encoding) -> Example:
    """Turn a conversation into an example.

    A picture that does not fit ends the example in front of it. An answer that does not fit keeps what fits and no end
    token: its last word is not where it ends.

    Raises:
        UserError: The encoding itself is wrong.
        BadSample: The model's chat format refuses the conversation.
    """
    if encoding.max_tokens < 2:
        raise UserError(f"max_tokens is {encoding.max_tokens}; an example needs at least 2 positions")
    if not encoding.pictures:
        conversation = without_pictures(conversation)
    if encoding.style == "original":
        if encoding.learn != "answers":
            raise UserError('style "original" learns answers only, as the original does')
        if processor.chat_format is not None:
            raise UserError(
                'style "original" cuts the original\'s prompt, and this model has a chat format of its own: use "owl"'
            )
        return _as_original(conversation, processor, encoding.max_tokens)
    try:
        uncut = processor.encode(conversation)
    except RefusedConversationError as error:  # others are rendered, so it is this record
        raise BadSample(str(error)) from error
    if uncut.loss_mask[:1] == (True,):  # no begin token, so nothing predicts the first word
        uncut = replace(uncut, loss_mask=(False, *uncut.loss_mask[1:]))
    if encoding.learn == "everything":
        uncut = _everything(uncut, processor, ends=processor.chat_format is None or conversation.style != OWL)
    return _fitting(uncut, processor, encoding.max_tokens)


def without_pictures(conversation: Conversation) -> Conversation:
    """The words alone; a message that was only pictures goes."""
    messages = (
        replace(message, parts=tuple(part for part in message.parts if isinstance(part, str)))
        for message in conversation.messages
    )
    return replace(conversation, messages=tuple(message for message in messages if message.parts))


def _everything(uncut: Example, processor: MplugOwlProcessor, ends: bool) -> Example:
    """Every word is supervised, as in language modelling: all but the first, which nothing predicts, and the pictures.

    Where it `ends`, an end token closes it; a chat template writes its own.
    """
    end = processor.tokenizer.eos_token_id
    ids = (*uncut.ids, end) if ends and uncut.ids[-1:] != (end,) else uncut.ids
    image = processor.image_token_id
    loss_mask = tuple(position > 0 and token != image for position, token in enumerate(ids))
    return replace(uncut, ids=ids, loss_mask=loss_mask)


def _fitting(uncut: Example, processor: MplugOwlProcessor, max_tokens: int) -> Example:
    """The positions that fit, no picture cut in two, and the pictures that stand in them."""
    length = min(len(uncut), max_tokens)
    kept, part = divmod(uncut.ids[:length].count(processor.image_token_id), processor.num_image_tokens)
    length -= part  # the last picture's first positions are all that is left of it
    return replace(
        uncut,
        ids=uncut.ids[:length],
        loss_mask=uncut.loss_mask[:length],
        pictures=uncut.pictures[:kept],
        cut=len(uncut) - length,
    )


def _as_original(conversation: Conversation, processor: MplugOwlProcessor, max_tokens: int) -> Example:
    """The original's training chunks: role marks split the prompt, and each chunk is tokenised on its own.

    Up to `max_tokens` + 1 ids, since the original counts targets; a cut answer is closed by the end token. Where the
    original takes the wrong words for an answer (an empty one, "AI: " inside one), the right ones are supervised.
    """
    begin, room = processor.encode_pieces([]).ids, max_tokens + 1
    ids, loss_mask, kept, cut, full = list(begin), [False] * len(begin), 0, 0, False
    for piece in _original_chunks(conversation.pieces()):
        # The end token is set below. What looks like a special token is one here, as it was in the original.
        tokens = processor.encode_pieces([replace(piece, supervised=False)], plain=False).ids[len(begin) :]
        uncut = len(tokens) + piece.supervised
        full = full or len(ids) >= room or (piece.text is None and len(ids) + uncut > room)
        if full:
            cut += uncut
            continue
        tokens = tokens[: room - piece.supervised - len(ids)] + (processor.tokenizer.eos_token_id,) * piece.supervised
        cut += uncut - len(tokens)
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
