"""A look at sources before a run: how long their samples are, whether they hold pictures. Pictures are not opened."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mplug_owl.data.examples import Examples
from mplug_owl.data.mixture import SampleId
from mplug_owl.data.sources import Source

# A source is measured until its mean is known to this share of itself, one standard error: captions take about a thousand.
ERROR = 0.002
BLOCK = 256
MOST = 16_384
# Conversations that are looked at for pictures.
LOOKED_AT = 256


@dataclass(frozen=True)
class Lengths:
    """Positions and pictures of a sample, on average, and how many samples that was measured on."""

    tokens: float
    pictures: float
    measured: int


def lengths(examples: Examples, shares: Sequence[float]) -> Lengths:
    """The mean sample of sources that make up these shares of the samples. One that cannot be read has no positions.

    A pure function of the seed and the data. Raises ValueError where nothing can be read.
    """
    tokens, pictures, measured = 0.0, 0.0, 0
    for number, share in enumerate(shares):
        rows = _measured(examples, number)
        if not rows.any():
            raise ValueError(f"{examples.sources[number].name}: none of {len(rows)} records can be read; see owl inspect")
        tokens += share * rows[:, 0].mean()
        pictures += share * rows[:, 1].mean()
        measured += len(rows)
    return Lengths(float(tokens), float(pictures), measured)


def pictured(source: Source) -> float:
    """The share of conversations that show pictures, among those that can be read of `LOOKED_AT` spread over a source."""
    shown = []
    for index in np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)):
        with contextlib.suppress(ValueError):
            shown.append(bool(source[int(index)].pictures))
    return sum(shown) / max(1, len(shown))


def _measured(examples: Examples, number: int) -> np.ndarray:
    """Positions and pictures [samples, 2] of samples drawn from one source, as many as it takes."""
    size = len(examples.sources[number])
    drawn = np.random.default_rng([examples.seed, 4, number]).choice(size, min(size, MOST), replace=False)
    rows: list[tuple[int, int]] = []
    for index in drawn:
        row = (0, 0)
        with contextlib.suppress(ValueError):
            example = examples[SampleId(number, 0, int(index))]
            row = (len(example), len(example.pictures))
        rows.append(row)
        if len(rows) % BLOCK == 0:
            seen = np.array(rows)[:, 0]
            if 0 < seen.std() / len(rows) ** 0.5 < ERROR * seen.mean():
                break
    return np.array(rows)
