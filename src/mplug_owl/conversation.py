"""A conversation: who said what, with which pictures, and which words are supervised.

Nothing here knows tokens or tensors. A conversation becomes `Piece`s (text, or the position of one picture) and the
processor turns pieces into ids, so training and chatting tokenise the same words in the same way.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mplug_owl.errors import UserError

Role = Literal["user", "assistant"]
ImageSource = str | Path | bytes | Image.Image

IMAGE_MARK = "<image>"
# What some programs write beside a turn's words, and would be lost in silence.
UNUSED_IN_TURNS = ("image", "images", "video", "videos", "audio", "audios", "tool_calls", "function_call")
# The sentence every released mPLUG-Owl was trained with.
SYSTEM_PROMPT = (
    "The following is a conversation between a curious human and AI assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def is_learned(answer: Mapping[str, Any]) -> bool:
    """Whether an answer is learned, by the fields in which programs say it; 0 or false means that it is not."""
    return 0 not in [answer.get(key) for key in ("weight", "loss_weight", "train", "loss")]


@dataclass(frozen=True)
class Picture:
    """One picture in a message: a file's path, a file's bytes or an opened PIL image."""

    source: ImageSource


@dataclass(frozen=True)
class Message:
    """What one side says at once: text and pictures in their order.

    An answer is learned unless `supervised` says otherwise. `alternatives` are other answers to the same, of which training
    takes one each epoch; everything else reads the one in `parts`.
    """

    role: Role
    parts: tuple[str | Picture, ...]
    supervised: bool = True
    alternatives: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words alone, without the pictures."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation; `text` is None where a picture stands.

    A supervised piece is an answer: its tokens and the end token after it carry the loss. An `ended` one is an answer with
    its end token that carries none.
    """

    text: str | None
    supervised: bool = False
    ended: bool = False

    @property
    def answer(self) -> bool:
        """Whether an end token follows."""
        return self.supervised or self.ended


@dataclass(frozen=True)
class PromptStyle:
    """The words around what is said. The default is the original's."""

    user: str = "Human: "
    assistant: str = "AI: "
    line: str = "\n"


OWL = PromptStyle()
# Nothing but what is said: documents for a language model.
PLAIN = PromptStyle(user="", assistant="", line="")


@dataclass(frozen=True)
class Conversation:
    """Messages under an optional system sentence; `name` says where it came from, for error messages."""

    messages: tuple[Message, ...]
    system: str | None = SYSTEM_PROMPT
    style: PromptStyle = OWL
    name: str = ""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Every picture, in reading order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, Picture))

    @property
    def answers(self) -> tuple[str, ...]:
        """What the assistant says, turn by turn."""
        return tuple(message.text for message in self.messages if message.role == "assistant")

    def said(self, role: Role, *parts: str | Picture) -> "Conversation":
        """The same conversation with one more message."""
        return replace(self, messages=(*self.messages, Message(role, parts)))

    def pieces(self, reply: bool = False) -> list[Piece]:
        """Render to pieces: prompt text joined between pictures and answers, every answer on its own.

        `reply` ends with the assistant's prefix, where a model continues. An answer without any word is part of the
        prompt: there is nothing in it to learn.
        """
        pieces: list[Piece] = []
        for piece in self._stretches(reply):
            if piece.text == "" and not piece.answer:
                continue
            last = pieces[-1] if pieces else Piece(None)
            if piece.text is not None and last.text is not None and not piece.answer and not last.answer:
                pieces[-1] = Piece(last.text + piece.text)
            else:
                pieces.append(piece)
        return pieces

    def prompt(self, reply: bool = True, end: str = "") -> str:
        """The original's prompt string: pictures as `<image>`, `end` after every answer."""
        return "".join(
            IMAGE_MARK if piece.text is None else piece.text + (end if piece.answer else "") for piece in self.pieces(reply)
        )

    def _stretches(self, reply: bool) -> Iterator[Piece]:
        style, line = self.style, ""
        if self.system:
            yield Piece(self.system)
            line = style.line
        for message in self.messages:
            if message.role == "assistant":
                yield Piece(f"{line}{style.assistant}")
                words = bool(message.text.strip())
                yield Piece(message.text, words and message.supervised, words and not message.supervised)
                line = style.line
                continue
            # Pictures in front of the words stand on lines of their own, as in the original's prompt.
            parts = list(message.parts)
            while parts and isinstance(parts[0], Picture):
                yield Piece(f"{line}{style.user}")
                yield Piece(None)
                line = style.line
                parts.pop(0)
            if parts:
                yield Piece(f"{line}{style.user}")
                yield from (Piece(None) if isinstance(part, Picture) else Piece(part) for part in parts)
                line = style.line
        if reply:
            yield Piece(f"{line}{style.assistant}")

    @classmethod
    def from_chat(cls, messages: Sequence[Mapping[str, Any]], name: str = "") -> "Conversation":
        """Read chat messages in transformers' convention: `{"role": ..., "content": str | [parts]}`.

        A part is `{"type": "text", "text": ...}` or `{"type": "image", "image" | "path" | "url": ...}`; OpenAI's `image_url`
        and LLaMA-Factory's `value` are read too. A leading system message replaces the original's system sentence; its empty
        content leaves none. An answer whose `weight` (`loss_weight`, `train`, `loss`) is 0 or false is not learned.
        Raises UserError that names the message and what would be right.
        """
        system: str | None = SYSTEM_PROMPT
        said: list[Message] = []
        for index, message in enumerate(messages):
            where = f"{name or 'chat'}: message {index}"
            if not isinstance(message, Mapping):
                raise UserError(f"{where} is a {type(message).__name__}; expected an object with role and content")
            role = message.get("role")
            if role not in ("system", "developer", "user", "assistant"):
                raise UserError(f"{where} has role {role!r:.80}; expected system, user or assistant")
            if unused := [key for key in UNUSED_IN_TURNS if message.get(key)]:
                raise UserError(f"{where} has {unused[0]!r}; expected text, and pictures as parts of its content")
            parts = tuple(_chat_parts(message.get("content"), where))
            pictures = any(isinstance(part, Picture) for part in parts)
            if role in ("system", "developer"):
                if index:
                    raise UserError(f"{where} is a system message; it can only come first")
                if pictures:
                    raise UserError(f"{where} is a system message with a picture; pictures belong to the user")
                system = "".join(part for part in parts if isinstance(part, str)) or None
                continue
            if role == "assistant" and pictures:
                raise UserError(f"{where} is an answer with a picture; an owl answers in words")
            said.append(Message(role, parts, supervised=role != "assistant" or is_learned(message)))
        return cls(tuple(said), system, name=name)

    @classmethod
    def from_prompt(cls, text: str, images: Sequence[ImageSource], name: str = "") -> "Conversation":
        """Read the original's prompt string: `SYSTEM\\nHuman: <image>\\nHuman: QUESTION\\nAI: ANSWER`.

        Role marks count at the start of a line only (the original takes the one inside "OpenAI: " too). A picture
        before the first mark is the human's.
        Raises UserError when the numbers of `<image>` marks and of images differ, with both.
        """
        if (slots := text.count(IMAGE_MARK)) != len(images):
            raise UserError(f"{name or 'prompt'}: {slots} {IMAGE_MARK} in the text but {len(images)} images")
        head, *turns = re.split(r"(?:^|\n)(Human: |AI: )", text)
        pictures = iter(images)
        said: list[Message] = []
        if IMAGE_MARK in head:
            before, mark, after = head.partition(IMAGE_MARK)
            head, _, line = before.rpartition("\n")
            said.append(Message("user", _marked_parts(line + mark + after, pictures)))
        for mark, words in zip(turns[::2], turns[1::2], strict=True):
            if mark == "AI: " and IMAGE_MARK in words:
                raise UserError(f"{name or 'prompt'}: {IMAGE_MARK} inside an answer; pictures belong to the human")
            said.append(Message("assistant" if mark == "AI: " else "user", _marked_parts(words, pictures)))
        return cls(tuple(said), head or None, name=name)


def caption(picture: ImageSource, words: str, name: str = "") -> Conversation:
    """A picture and the words that describe it, as the answer to the picture alone.

    Without the system sentence, which would cost every caption sixty positions; with the marks of human and AI,
    so that what stage 1 learns stands where stage 2 looks for it (docs/journal.md, 2026-11-22).
    """
    return Conversation((Message("user", (Picture(picture),)), Message("assistant", (words,))), None, name=name)


def _chat_parts(content: Any, where: str) -> Iterator[str | Picture]:
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise UserError(f"{where} has content of type {type(content).__name__}; expected text or a list of parts")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = _part_value(part) if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(value, str):
            yield value
        elif kind in ("image", "image_url") and value is not None:
            yield Picture(value)
        elif isinstance(kind, str) and re.search("audio|video|file", kind):
            raise UserError(
                f"{where}, part {index} is of type {kind!r:.40}; an owl sees pictures and reads words, nothing else"
            )
        else:
            raise UserError(
                f'{where}, part {index} is {part!r:.80}; expected {{"type": "text", "text": ...}} or '
                '{"type": "image", "image": FILE}'
            )


def _part_value(part: Mapping[str, Any]) -> Any:
    """What a part holds: under the name of its type, or where else chats have it."""
    for key in ("text",) if part.get("type") == "text" else ("image", "path", "url", "image_url"):
        value = part.get(key)
        if isinstance(value, Mapping) and "url" in value:
            value = value["url"]
        if value is not None:
            return value
    return part.get("value")


def _marked_parts(words: str, pictures: Iterator[ImageSource]) -> tuple[str | Picture, ...]:
    parts: list[str | Picture] = []
    for index, stretch in enumerate(words.split(IMAGE_MARK)):
        if index:
            parts.append(Picture(next(pictures)))
        if stretch:
            parts.append(stretch)
    # Empty text in front keeps a picture on its line with the words after it, so the prompt stays as it was written.
    return ("", *parts) if len(parts) > 1 and isinstance(parts[0], Picture) else tuple(parts)
