"""Samples that cannot be read: each is written down once, with its reason; too many of them end the run."""

from collections.abc import Callable, Iterable
from math import comb
from pathlib import Path

from mplug_owl.data.loader import BadRecord
from mplug_owl.errors import UserError
from mplug_owl.train.disk import JsonLines, read

# From so many samples on their share is taken as it is.
ENOUGH_TO_JUDGE = 200
# Among fewer, a share that chance alone would explain in one run of a thousand is too high.
CHANCE = 1e-3


class Quarantine:
    """`quarantine.jsonl` of a run. Raises UserError where more than `share` of the samples cannot be read.

    `path` is None in processes that write nothing; they judge alike.
    """

    def __init__(self, path: Path | None, share: float, note: Callable[[str], None] = lambda sentence: None) -> None:
        self.lines, self.share = JsonLines(path, note=note) if path is not None else None, share
        self.known = {(row["source"], row["index"]) for row in read(path)} if path is not None else set()
        self.seen = 0
        self.bad = 0

    def add(self, bad: Iterable[BadRecord], seen: int) -> None:
        """Write down what a step could not read, of the `seen` samples that it was given."""
        records = list(bad)
        self.seen += seen
        self.bad += len(records)
        for record in records:
            if self.lines is not None and (record.source, record.index) not in self.known:
                self.known.add((record.source, record.index))
                self.lines.write({"source": record.source, "index": record.index, "reason": record.reason})
        if self._too_many():
            raise UserError(
                f"{self.bad} of {self.seen} samples cannot be read, more than the {self.share:.0%} allowed by max_bad_share; "
                "they are listed in quarantine.jsonl"
            )

    def _too_many(self) -> bool:
        if self.bad <= self.share * self.seen:
            return False
        if self.seen >= ENOUGH_TO_JUDGE:
            return True
        # As many as this or more, were each sample bad with the chance that is allowed.
        fewer = (comb(self.seen, k) * self.share**k * (1 - self.share) ** (self.seen - k) for k in range(self.bad))
        return 1 - sum(fewer) < CHANCE
