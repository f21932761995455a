"""Questions to a model, many at once, each answer as soon as it is there; records that cannot be asked are set apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mplug_owl.chat import ChatModel, Decoding, OwlChatModel, arriving
from mplug_owl.conversation import Conversation
from mplug_owl.errors import BadSample, RefusedConversationError, UserError
from mplug_owl.eval.bulk.questions import Asked, Questions
from mplug_owl.model.generation import refuse_too_long
from mplug_owl.model.images import open_image

# So many batches are read before they are answered: like length beside like, and few rows alone at the end.
BATCHES_AHEAD = 4


@dataclass(frozen=True)
class RecordAnswer:
    """A record and its answer, or the reason why it has none."""

    record: int
    id: str = ""
    question: str = ""
    answer: str | None = None
    reason: str = ""


def ask_all(
    model: ChatModel, questions: Questions, positions: Sequence[int], decoding: Decoding, batch: int
) -> Iterator[RecordAnswer]:
    """Each of these records once, in any order, as soon as its answer is there.

    Raises:
        UserError: An endpoint is down, or a store; no record is to blame.
    """
    waiting = iter(questions.in_turn(positions))
    while window := list(islice(waiting, batch * BATCHES_AHEAD)):
        asked: list[Asked] = []
        for position in window:
            try:
                one = questions[position]
                _refuse_too_long(model, one.conversation)
            except BadSample as error:
                yield RecordAnswer(position + 1, reason=str(error))
            else:
                asked.append(one)
        yield from _answered(model, asked, decoding)


def _answered(model: ChatModel, asked: Sequence[Asked], decoding: Decoding) -> Iterator[RecordAnswer]:
    """The answers to these. Pictures are opened by whoever answers; where one fails, each of the rest is tried.

    Where a model refuses one of several conversations, each half of the rest is asked by itself.
    """
    left = dict(enumerate(asked))
    while left:
        order = list(left)
        try:
            for at, answer in arriving(model, [left[key].conversation for key in order], decoding):
                one = left.pop(order[at])
                yield RecordAnswer(one.record, one.id, one.words, answer)
        except BadSample:
            bad = {key: reason for key, one in left.items() if (reason := _damage(one))}
            if not bad:
                raise
            for key, reason in bad.items():
                yield RecordAnswer(left.pop(key).record, reason=reason)
        except RefusedConversationError as error:
            rest = list(left.values())
            if len(rest) == 1:
                yield RecordAnswer(rest[0].record, reason=_named(rest[0].conversation, error))
                return
            for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
                yield from _answered(model, half, decoding)
            return


def _damage(asked: Asked) -> str:
    """What is wrong with a record's pictures; empty where nothing is."""
    for picture in asked.conversation.pictures:
        try:
            open_image(picture.source, asked.conversation.name)
        except BadSample as error:
            return str(error)
    return ""


def _refuse_too_long(model: ChatModel, conversation: Conversation) -> None:
    """Raise BadSample where our own model refuses a conversation; others say so once they are asked."""
    if isinstance(model, OwlChatModel):
        try:
            refuse_too_long(len(model.processor.encode(conversation, reply=True)), model.model.config.text_config)
        except UserError as error:
            raise BadSample(_named(conversation, error)) from None


def _named(conversation: Conversation, error: UserError) -> str:
    """Why a conversation is refused, with its name in front."""
    return str(error) if str(error).startswith(conversation.name) else f"{conversation.name}: {error}"
