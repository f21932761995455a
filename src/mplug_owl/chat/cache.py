"""What rows of different ages need of transformers' caches: rows leave, others join, and padding that nobody needs goes.

Every row is padded on the left, so all of them end at the same position. A layer holds keys and values of all positions
(of the last ones, where its window slides) or states of its convolutions, which know nothing of positions.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, cast

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer


def joinable(cache: Cache) -> bool:
    """Whether rows can be put beside the rows of this cache: every layer is of a kind that is known here."""
    return all(_keeps_positions(layer) or _keeps_states(layer) for layer in cache.layers)


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Keep these rows alone, in this order."""
    cache.reorder_cache(cast(LongTensor, rows))  # which selects as many as it is given


def trim(cache: Cache, width: int) -> None:
    """Forget all but the last `width` positions, where the others are padding in every row."""
    layers: list[Any] = cache.layers
    for layer in layers:
        if _keeps_positions(layer):
            size = min(width, layer.keys.shape[-2])
            layer.keys, layer.values = layer.keys[:, :, -size:], layer.values[:, :, -size:]
            _set_length(layer, width)


def join(cache: Cache, others: Cache) -> None:
    """Put the rows of another cache under those of this one, the shorter padded on the left."""
    layers: list[tuple[Any, Any]] = list(zip(cache.layers, others.layers, strict=True))
    for layer, other in layers:
        if _keeps_states(layer):
            for states, more in ((layer.conv_states, other.conv_states), (layer.recurrent_states, other.recurrent_states)):
                _join_states(states, more)
        else:
            width = max(layer.get_seq_length(), other.get_seq_length())
            layer.keys, layer.values = _under(layer.keys, other.keys), _under(layer.values, other.values)
            _set_length(layer, width)


def take_row(cache: Cache, index: int, length: int) -> Cache:
    """A copy of one row of a cache, its last `length` positions: what stands before them is padding."""
    taken, row = copy(cache), slice(index, index + 1)
    taken.layers = [copy(layer) for layer in cache.layers]
    layers: list[Any] = taken.layers
    for layer in layers:
        if _keeps_states(layer):
            for name in ("conv_states", "recurrent_states"):
                states = getattr(layer, name)
                setattr(layer, name, {key: None if state is None else state[row].clone() for key, state in states.items()})
        elif layer.keys is not None:
            size = min(length, layer.keys.shape[-2])
            layer.keys, layer.values = layer.keys[row, :, -size:].clone(), layer.values[row, :, -size:].clone()
            _set_length(layer, length)
    return taken


def can_be_cut(cache: Cache) -> bool:
    """Whether every layer still holds every position: keys and values do, a sliding window until it is full."""
    return all(map(_can_be_cut, cache.layers))


def size_in_bytes(cache: Cache) -> int:
    """What the tensors of a cache take."""
    return sum(tensor.nbytes for layer in cache.layers for tensor in _tensors(layer))


def _can_be_cut(layer: object) -> bool:
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.get_seq_length() < layer.sliding_window
    return type(layer) is DynamicLayer


def _tensors(layer: Any) -> Iterator[Tensor]:
    if _keeps_states(layer):
        states = [*layer.conv_states.values(), *layer.recurrent_states.values()]
        yield from (state for state in states if state is not None)
    elif layer.keys is not None:
        yield from (layer.keys, layer.values)


def _keeps_positions(layer: Any) -> bool:
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.keys is not None  # None: another layer's


def _keeps_states(layer: Any) -> bool:
    return isinstance(getattr(layer, "conv_states", None), dict) and not isinstance(layer, DynamicLayer)


def _set_length(layer: Any, width: int) -> None:
    """A window that slides counts the positions that it has seen."""
    if type(layer) is DynamicSlidingWindowLayer:
        layer.cumulative_length = width


def _under(one_BHTK: Tensor, other_BHTK: Tensor) -> Tensor:
    width = max(one_BHTK.shape[-2], other_BHTK.shape[-2])
    return torch.cat([pad(rows, (0, 0, width - rows.shape[-2], 0)) for rows in (one_BHTK, other_BHTK)])


def _join_states(states: dict[int, Tensor | None], others: Mapping[int, Tensor | None]) -> None:
    for index, other in others.items():
        if (state := states[index]) is not None and other is not None:
            states[index] = torch.cat([state, other])
