"""A language model without eyes as a ChatModel: it reads words alone."""

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import torch

from mplug_owl.chat.owl import OwlChatModel
from mplug_owl.chat.protocol import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.errors import RefusedConversationError
from mplug_owl.model.build import Modules, build
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.eyes import Base, cast_weights
from mplug_owl.model.language import SUFFIX, language_config
from mplug_owl.model.load import Owl, find_device, find_dtype
from mplug_owl.model.locate import EYES_BASE, are_eyes, bundled, locate

# The owl around the language model needs eyes, which nothing is ever shown: the smallest there are.
CLOSED_EYES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 14}


class LanguageChatModel:
    """A language model as a ChatModel. It reads what an owl made of it would read, to the token, but for pictures.

    Args:
        owl: An owl whose eyes are not used.
        batch_size: At most so many conversations are answered at once.

    Example:
        >>> from mplug_owl import Conversation, Decoding
        >>> asked = Conversation(()).said("user", "Name a red fruit.")
        >>> LanguageChatModel.open("tiny-language").answers([asked], Decoding())  # doctest: +SKIP
        ['cherry']
    """

    def __init__(self, owl: Owl, batch_size: int = 32) -> None:
        self._answering = OwlChatModel(owl, batch_size)

    @property
    def batch_size(self) -> int:
        """At most so many conversations are answered at once."""
        return self._answering.batch_size

    @batch_size.setter
    def batch_size(self, count: int) -> None:
        self._answering.batch_size = count

    @classmethod
    def open(cls, source: str, device: str | torch.device | None = None, dtype: str = "auto") -> "LanguageChatModel":
        """The language model that `Modules` calls by this name, or the one that a folder of eyes was trained with.

        Args:
            source: `tiny-language`, a folder, a hub id OWNER/NAME or a GGUF file; `owl-smol` is SmolLM2, whose eyes those are.
            device: Where it goes; None takes the best there is.
            dtype: The weights' precision; `auto` keeps the file's.

        Raises:
            UserError: There is no such language model or precision, or the device is not here.
        """
        target, precision = find_device(device), None if dtype == "auto" else find_dtype(dtype)
        if are_eyes(bundled(source)):
            source = Base(**json.loads(Path(bundled(source), EYES_BASE).read_text(encoding="utf-8"))).locate()
        if not source.endswith(SUFFIX):
            locate(source)
        with torch.random.fork_rng(devices=[]):  # fresh weights of eyes that nobody uses
            owl = build(Modules(lambda: _config(source), language=source), (), 0)
        module: torch.nn.Module = owl.model
        module.to(target)
        if precision is not None:
            cast_weights(module, precision)
        return cls(Owl(owl.model.eval(), owl.processor))

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order. Raises UserError as `arriving` does."""
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Each answer with its conversation's position, as soon as it is whole.

        Raises:
            UserError: A conversation has a picture, or is longer than the model's positions.
        """
        for conversation in conversations:
            _refuse_pictures(conversation)
        return self._answering.arriving(conversations, decoding)

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes. Raises UserError as `arriving` does."""
        _refuse_pictures(conversation)
        yield from self._answering.stream(conversation, decoding)


def _config(source: str) -> MplugOwlConfig:
    """The sizes of an owl around a language model."""
    return MplugOwlConfig(
        vision_config=CLOSED_EYES,
        visual_abstractor_config={"connector": "linear"},
        text_config=language_config(source),
    )


def _refuse_pictures(conversation: Conversation) -> None:
    if conversation.pictures:
        name = conversation.name or "a conversation"
        raise RefusedConversationError(
            f"{name} has a picture, and a language model reads words alone; ask it through experts: instead"
        )
