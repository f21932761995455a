"""The tokens of a rendered chat, as its tokenizer gives them for the whole text, with what people typed as plain text.

A chat template's own special tokens cut the text; between two of them template and typed words are one stretch, tokenised
together, so that they merge as in the whole text. In a stretch no special token is recognised.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from mplug_owl.errors import UserError


@dataclass(frozen=True)
class Span:
    """A part of a rendered chat: words, or a picture where `text` is None. `typed` words have no special tokens in them."""

    text: str | None
    typed: bool = False
    supervised: bool = False


def control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, tuple[int, Any]]:
    """The tokens that steer a chat, by their text: their ids and the tokens.

    Added tokens that stand in the template are special even where the tokenizer does not say so, such as Qwen's <think>;
    transformers has the same rule.
    """
    return {
        token.content: (index, token)
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in template and not token.content.isspace())
    }


@dataclass(frozen=True)
class _Unit:
    """What the tokenizer sees at once: a special token (`token`), a picture (neither), or a stretch of plain text."""

    token: int | None = None
    parts: tuple[tuple[str, bool], ...] = ()  # words, and whether they are supervised
    supervised: bool = False


class PlainTokenizer:
    """A tokenizer that reads special tokens in a template's words alone.

    Args:
        tokenizer: The language model's. Without a fast one inside, every part is tokenised on its own.
        template: The chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        self.added = control_tokens(tokenizer, template)
        longest_first = sorted(self.added, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._first, self._later = self._twins()

    def control(self, text: str) -> re.Match[str] | None:
        """The first special token in a template's words."""
        return self._control.search(text)

    def encode(self, spans: Iterable[Span], picture: Sequence[int]) -> tuple[list[int], list[bool]]:
        """Ids and which of them are supervised; each picture becomes the ids in `picture`."""
        units = self._units(spans)
        ids: list[int] = []
        mask: list[bool] = []
        for index, unit in enumerate(units):
            if unit.parts:
                before = units[index - 1] if index else None
                tokens, supervised = self._stretch(unit, before, units[index + 1] if index + 1 < len(units) else None)
            elif unit.token is not None:
                tokens, supervised = [unit.token], [unit.supervised]
            else:
                tokens, supervised = list(picture), [False] * len(picture)
            ids += tokens
            mask += supervised
        return ids, mask

    def _units(self, spans: Iterable[Span]) -> list[_Unit]:
        units: list[_Unit] = []
        parts: list[tuple[str, bool]] = []

        def close() -> None:
            if parts:
                units.append(_Unit(parts=tuple(parts)))
                parts.clear()

        for span in spans:
            if span.text is None:
                close()
                units.append(_Unit())
                continue
            at = 0
            for found in () if span.typed else self._control.finditer(span.text):
                if words := span.text[at : found.start()]:
                    parts.append((words, span.supervised))
                close()
                units.append(_Unit(self.added[found.group()][0], supervised=span.supervised))
                at = found.end()
            if words := span.text[at:]:
                parts.append((words, span.supervised))
        close()
        return units

    def _stretch(self, unit: _Unit, before: _Unit | None, after: _Unit | None) -> tuple[list[int], list[bool]]:
        parts = list(unit.parts)
        if before is not None and before.token is not None and self.tokenizer.added_tokens_decoder[before.token].rstrip:
            parts = _stripped(parts)
        if after is not None and after.token is not None and self.tokenizer.added_tokens_decoder[after.token].lstrip:
            parts = _stripped(parts, at_end=True)
        text = "".join(words for words, _ in parts)
        if not text:
            return [], []
        twin = self._first if before is None else self._later
        if twin is None:
            return self._in_parts(parts)
        encoding = twin.encode(text, add_special_tokens=False)
        if typed := {token for token, _ in self.added.values()} & set(encoding.ids):
            name = self.tokenizer.convert_ids_to_tokens(typed.pop())
            raise UserError(f"the tokenizer makes {name!r} out of plain text; expected one whose special tokens are added ones")
        flags = [supervised for words, supervised in parts for _ in words]
        mask = [any(flags[start : max(end, start + 1)]) for start, end in encoding.offsets]
        return encoding.ids, mask

    def _in_parts(self, parts: Iterable[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []
        for words, supervised in parts:
            found: list[int] = self.tokenizer(words, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids += found
            mask += [supervised] * len(found)
        return ids, mask

    def _twins(self) -> tuple[Tokenizer | None, Tokenizer | None]:
        """The tokenizer without the special tokens, for a text's beginning and for what comes later in it."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(fast, Tokenizer):
            return None, None
        values: dict[str, Any] = json.loads(fast.to_str())
        values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in self.added]
        values["post_processor"] = values["truncation"] = values["padding"] = None
        text = json.dumps(values)
        later = text.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
        first = Tokenizer.from_str(text)
        return first, first if later == text else Tokenizer.from_str(later)


def _stripped(parts: Sequence[tuple[str, bool]], at_end: bool = False) -> list[tuple[str, bool]]:
    """The parts without the space at one end, which the special token there takes."""
    left = list(parts)
    edge = -1 if at_end else 0
    while left:
        words, supervised = left[edge]
        if kept := words.rstrip() if at_end else words.lstrip():
            left[edge] = (kept, supervised)
            break
        left.pop(edge)
    return left
