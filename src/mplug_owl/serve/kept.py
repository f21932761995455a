"""What was computed and may be needed again, within a limit of bytes: pictures' features, and conversations' caches."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from mplug_owl.chat.cache import can_be_cut, size_in_bytes
from mplug_owl.conversation import ImageSource, Picture

Value = TypeVar("Value")
# A turn that shares less than this part of a kept one is another conversation, which needs its cache as it is.
SHARED = 0.5


@dataclass(frozen=True)
class KnownPicture(Picture):
    """A picture, and what it is found by: its owner and a digest of its file."""

    key: bytes = b""


class Kept(Generic[Value]):
    """Values by key, the least recently used of which go when they take more than `most` bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._values: OrderedDict[object, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: object) -> Value | None:
        """The value of a key, which is now the last to go."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: object, value: Value, size: int) -> None:
        """Keep a value of so many bytes."""
        self.pop(key)
        if size <= self.most:
            self._values[key] = value, size
            self.bytes += size
        while self.bytes > self.most:
            self.pop(next(iter(self._values)))

    def pop(self, key: object) -> Value | None:
        """Take a value out."""
        value, size = self._values.pop(key, (None, 0))
        self.bytes -= size
        return value

    def items(self) -> list[tuple[object, Value]]:
        """Keys and values, the oldest first."""
        return [(key, value) for key, (value, _) in self._values.items()]


class Features:
    """Pictures' features [N, E], each computed once while it is kept.

    Args:
        encode: Pictures to their features [I, N, E].
        most: Bytes that may be kept.
    """

    def __init__(self, encode: Callable[[Sequence[ImageSource]], Tensor], most: int) -> None:
        self.encode, self.kept = encode, Kept[Tensor](most)

    @torch.no_grad()
    def of(self, pictures: Sequence[KnownPicture]) -> Tensor | None:
        """The features of these pictures [I, N, E] in their order; None where there are none."""
        found = {picture.key: self.kept.get(picture.key) for picture in pictures}
        new = {picture.key: picture.source for picture in pictures if found[picture.key] is None}
        if new:
            for key, features_NE in zip(new, self.encode(list(new.values())), strict=True):
                found[key] = features_NE
                self.kept.put(key, features_NE.clone(), features_NE.nbytes)
        features = [features_NE for picture in pictures if (features_NE := found[picture.key]) is not None]
        return torch.stack(features) if features else None


@dataclass(frozen=True)
class _Turn:
    """What was computed of a conversation so far: `cache` holds the keys and values of `ids`, a picture first at `first`."""

    owner: bytes
    ids: tuple[int, ...]
    pictures: tuple[bytes, ...]
    first: int
    cache: Cache

    def may_serve(self, owner: bytes, ids: tuple[int, ...], pictures: Sequence[bytes]) -> bool:
        """Whether enough of it may begin a prompt. Most conversations begin alike, and most of them are told apart here."""
        needed = ceil(SHARED * len(self.ids))
        shown = self.first >= needed or self.pictures[:1] == tuple(pictures[:1])
        return self.owner == owner and shown and self.ids[:needed] == ids[:needed]


class Turns:
    """Caches of conversations between their turns.

    Args:
        image_token_id: What marks a picture's positions.
        positions: N, how many of them a picture takes.
        most: Bytes that may be kept.
    """

    def __init__(self, image_token_id: int, positions: int, most: int) -> None:
        self.image_token_id, self.positions = image_token_id, positions
        self.kept = Kept[_Turn](most)
        self._count = 0

    def keep(self, owner: bytes, ids: Sequence[int], pictures: Sequence[bytes], cache: Cache) -> None:
        """Keep the cache of one row, which holds these ids."""
        self._count += 1
        first = ids.index(self.image_token_id) if pictures else len(ids)
        self.kept.put(self._count, _Turn(owner, tuple(ids), tuple(pictures), first, cache), size_in_bytes(cache))

    def take(self, owner: bytes, ids: Sequence[int], pictures: Sequence[bytes]) -> tuple[int, Cache | None]:
        """How many of a prompt's tokens a kept cache holds, and that cache, which is taken out; it holds no others.

        Keys and values are cut to the tokens that both begin with. Convolutions and full windows have forgotten what was
        before, so they serve only where the prompt continues what is kept.
        """
        known, key = self._found(owner, ids, pictures)
        turn = self.kept.pop(key) if known else None
        if turn is None:
            return 0, None
        if beyond := len(turn.ids) - known:
            turn.cache.crop(-beyond)
        return known, turn.cache

    def knows(self, owner: bytes, ids: Sequence[int], pictures: Sequence[bytes]) -> bool:
        """Whether `take` would find a cache."""
        return self._found(owner, ids, pictures)[0] > 0

    def _found(self, owner: bytes, ids: Sequence[int], pictures: Sequence[bytes]) -> tuple[int, object]:
        """How many of a prompt's tokens the best kept turn holds, and its key."""
        best, key, prompt = 0, None, tuple(ids)
        for candidate, turn in self.kept.items():
            if not turn.may_serve(owner, prompt, pictures):
                continue
            known = self._shared(turn, ids, pictures)
            if known > best and known >= SHARED * len(turn.ids) and (known == len(turn.ids) or can_be_cut(turn.cache)):
                best, key = known, candidate
        return best, key

    def _shared(self, turn: _Turn, ids: Sequence[int], pictures: Sequence[bytes]) -> int:
        """How many tokens both begin with, whole pictures alone. A prompt's last one is computed: its logits are needed."""
        alike = 0
        for one, other in zip(turn.pictures, pictures, strict=False):
            if one != other:
                break
            alike += 1
        left = seen = alike * self.positions
        known = 0
        for old, new in zip(turn.ids, ids[:-1], strict=False):
            is_picture = new == self.image_token_id
            if old != new or (is_picture and not left):
                break
            known, left = known + 1, left - is_picture
        return known - (seen - left) % self.positions
