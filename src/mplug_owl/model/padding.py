"""How rows of unequal length become one tensor, in the words that transformers' processors are asked in."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Self

from mplug_owl.errors import UserError

# Options come flat, or in these groups.
_GROUPS = ("text_kwargs", "images_kwargs", "common_kwargs")
# Told to leave out what an owl does not have anyway; and control tokens in what a user typed are always plain text.
_NEEDLESS = {"load_audio_from_video": False, "return_assistant_tokens_mask": False, "return_text_replacement_offsets": False}
_ALWAYS = ("sanitize_control_tokens",)


@dataclass(frozen=True)
class Padding:
    """`fill` is what rows are filled up to: the longest of them, `max_length` tokens, or nothing where all must be alike.

    `max_length` is what no row may exceed: an owl never cuts a prompt, for a cut could go through a picture.
    """

    fill: str = "longest"
    max_length: int | None = None

    @classmethod
    def read(cls, options: Mapping[str, object]) -> Self:
        """The options `padding`, `max_length`, `truncation` and `return_tensors`.

        Raises:
            UserError: One of them, or any other option, asks for what an owl's processor does not do.
        """
        given: dict[str, object] = {}
        for name, value in options.items():
            given |= value if name in _GROUPS and isinstance(value, Mapping) else {name: value}
        padding, limit = given.pop("padding", None), given.pop("max_length", None)
        given.pop("truncation", None)  # whatever it says: what is longer than max_length is refused
        if (kind := given.pop("return_tensors", None)) not in (None, "auto", "pt"):
            raise UserError(f"return_tensors={kind!r}: ids and pixels come as PyTorch tensors; expected 'pt'")
        unknown = [
            name
            for name, value in given.items()
            if value is not None and name not in _ALWAYS and not (name in _NEEDLESS and value == _NEEDLESS[name])
        ]
        if unknown:
            raise UserError(f"{unknown[0]}={given[unknown[0]]!r:.60}: an owl's processor has no such option")
        fill = "longest" if padding in (None, True) else "do_not_pad" if padding is False else str(padding)
        if fill not in ("longest", "max_length", "do_not_pad"):
            raise UserError(f"padding={padding!r}: expected True, False, 'longest' or 'max_length'")
        if limit is not None and not (isinstance(limit, int) and limit > 0):
            raise UserError(f"max_length={limit!r}: expected a number of tokens")
        if fill == "max_length" and limit is None:
            raise UserError("padding='max_length' needs max_length, how many tokens a row has")
        return cls(fill, limit)

    def length(self, rows: Sequence[Sized]) -> int:
        """How long the rows become. Raises UserError where one is longer than may be, or where they would not make a tensor."""
        lengths = [len(row) for row in rows]
        if self.max_length is not None and (longest := max(lengths)) > self.max_length:
            raise UserError(
                f"prompt {lengths.index(longest)} has {longest} tokens and max_length is {self.max_length}; shorten it: "
                "truncation could cut a picture in two"
            )
        if self.fill == "do_not_pad" and len(set(lengths)) > 1:
            raise UserError(
                f"padding=False: rows of {min(lengths)} to {max(lengths)} tokens make no tensor; expected padding=True"
            )
        return self.max_length if self.fill == "max_length" and self.max_length is not None else max(lengths)
