"""How many samples of each source come before a step: its due, rounded, found at any step at once.

A source is due `share * samples` a step, seldom a whole number. Each step takes the whole parts, and what is left of it goes
to whichever source is the most overdue, the first of several.
"""

import numpy as np

# So many steps before the one that is asked for, and up to eight times as many, all counts that can have been are gone through
# together until they are the same. Of 600 random mixtures of three to ten sources every one's were, from the first of these.
FAR = (32, 512, 8192)
# Of more than some twelve sources too many counts can have been. Then all steps are gone through in stretches of so many steps,
# each from a guess so many steps before it.
STRIDE, APPROACH = 256, 64
# More counts at once than this are not tried: ten sources have some 5,000 at most.
MOST = 10_000
# How far rounding can move what a source is due.
SLACK = 1e-3


class Apportionment:
    """Samples of some sources that are due `due` [sources] a step on average, `samples` of them in each step together.

    Where at most two dues are no whole numbers, a formula says how many came before a step, and each is within one sample of
    its due. Of three and more the counts are found by going through the latest steps, from all counts that there can have been
    before them: they lead to the same. Where these are too many, all steps are gone through, long stretches side by side.
    """

    def __init__(self, due: np.ndarray, samples: int) -> None:
        self.due, self.whole = due, np.floor(due).astype(np.int64)
        self.left = max(0, samples - int(self.whole.sum()))
        self._broken = np.flatnonzero(due != self.whole)  # what is left is theirs
        self._known = [[0] * len(due)]  # the counts before step 0, STRIDE, 2 STRIDE, ..., where they were needed
        self._latest = (0, self._known[0])

    def before(self, step: int) -> np.ndarray:
        """How many samples of each source [sources] the steps before this one take."""
        used = step * self.whole
        if self.left in (0, len(self._broken)):  # each of them is a whole number but for rounding, or there are none
            used[self._broken] += step if self.left else 0
        elif len(self._broken) == 2 and self.left == 1:
            self._between_two(used, step)
        else:
            used[:] = self._among_many(step)
        return used

    def _between_two(self, used: np.ndarray, step: int) -> None:
        """Each due rounded to the nearest: whichever got more would be less overdue than the other, at every step before."""
        one, other = self._broken
        both, due = used[one] + used[other] + step, self.due * step
        used[one] = np.floor(due[one])
        used[one] += step > 0 and due[one] - used[one] >= due[other] - (both - 1 - used[one])
        used[other] = both - used[one]

    def _among_many(self, step: int) -> list[int]:
        """Through the steps from one whose counts are known, and as few of them as can be."""
        first, used = self._nearest(step)
        self._latest = step, self._through(used, first, step)
        return self._latest[1]

    def _nearest(self, step: int) -> tuple[int, list[int]]:
        """An earlier step and its counts: that which was asked for last, or one before which no others are possible."""
        for steps in FAR:
            if 0 <= step - self._latest[0] <= steps:
                return self._latest
            if steps < step and (only := self._only_one(step, steps)):
                return only
        self._remember(step // STRIDE)
        nearest = step - step % STRIDE, self._known[step // STRIDE]
        return self._latest if nearest[0] <= self._latest[0] <= step else nearest

    def _through(self, used: list[int], first: int, last: int) -> list[int]:
        """The counts before step `last`, from those before step `first`, one step after the other."""
        due, whole = self.due.tolist(), self.whole.tolist()
        for done in range(first + 1, last + 1):
            used = [before + sure for before, sure in zip(used, whole, strict=True)]
            overdue = [each * done - before for each, before in zip(due, used, strict=True)]
            for _ in range(self.left):
                most = overdue.index(max(overdue))
                used[most] += 1
                overdue[most] -= 1
        return used

    def _only_one(self, step: int, steps: int) -> tuple[int, list[int]] | None:
        """An earlier step, and the counts to which all lead that are possible `steps` and more before; None if they differ.

        After a step a source is overdue by 1 / n - 1 at least: the most overdue of n is so by 1 / n when it gets its sample.
        And by 1 / 2 + ... + 1 / n at most: the k most overdue are so by 1 / (k + 1) + ... + 1 / n on average, which no step
        changes. It is the game of emptying the fullest cup (Adler and others, "A proportionate fair scheduling rule with good
        worst-case performance", 2003).
        """
        begins = np.arange(max(0, step - 8 * steps), max(1, step - steps + 1))
        due, sources = self.due[:, None] * begins, len(self.due)
        fewest = np.maximum(np.ceil(due - (1 / np.arange(2, sources + 1)).sum() - SLACK), 0).astype(np.int64)
        options = np.floor(due + 1 - 1 / sources + SLACK).astype(np.int64) - fewest + 1
        best = int(options.astype(np.float64).prod(0).argmin())
        first, samples = int(begins[best]), int(self.whole.sum()) + self.left
        more = _sums(options[:, best].tolist(), first * samples - int(fewest[:, best].sum()))
        if len(more) > MOST:
            return None
        counts = fewest[:, best] + more
        while len(counts) > 1 and first + 4 <= step:
            counts, first = np.unique(self._side_by_side(counts, first, 4), axis=0), first + 4
        return (first, counts[0].tolist()) if len(counts) == 1 else None

    def _remember(self, last: int) -> None:
        """Fill `_known` up to its entry `last`.

        Stretches are gone through side by side, each from a guess some steps before it. One whose guess had not become the
        true count where it begins is gone through again by itself, so no count depends on a guess.
        """
        begins = np.arange(len(self._known), last) * STRIDE
        reached, ended = list[list[int]](), list[list[int]]()
        if len(begins) > 1:
            counts = self._side_by_side(self._guess(begins - APPROACH), begins - APPROACH, APPROACH)
            reached, ended = counts.tolist(), self._side_by_side(counts, begins, STRIDE).tolist()
        while (entry := len(self._known)) <= last:
            known, guessed = self._known[-1], entry - 1 - (last - len(ended))
            if guessed >= 0 and reached[guessed] == known:
                self._known.append(ended[guessed])
            else:
                self._known.append(self._through(known, (entry - 1) * STRIDE, entry * STRIDE))

    def _guess(self, steps: np.ndarray) -> np.ndarray:
        """Counts [steps, sources] of the right sum: every due rounded down, those with the largest rests up."""
        due = self.due * steps[:, None]
        used = np.floor(due).astype(np.int64)
        missing = steps * (self.whole.sum() + self.left) - used.sum(1)
        return used + ((used - due).argsort(1, kind="stable").argsort(1) < missing[:, None])

    def _side_by_side(self, used: np.ndarray, first: np.ndarray | int, steps: int) -> np.ndarray:
        """What `_through` does, for each row of `used` [rows, sources] and so many steps after its `first` [rows]."""
        counts, each, began = used.astype(np.float64), np.arange(len(used)), np.reshape(first, (-1, 1))
        for done in range(1, steps + 1):
            counts += self.whole
            overdue = self.due * (began + done) - counts
            for _ in range(self.left):
                most = overdue.argmax(1)  # the first of several
                counts[each, most] += 1
                overdue[each, most] -= 1
        return counts.astype(np.int64)


def _sums(options: list[int], total: int) -> np.ndarray:
    """All rows [rows, len(options)] of numbers below these that sum to `total`. Beyond `MOST` it stops."""
    rows, room = np.zeros((1, 0), np.int64), sum(options) - len(options)
    for below in options:
        room -= below - 1
        rows = np.concatenate([rows.repeat(below, 0), np.tile(np.arange(below), len(rows))[:, None]], 1)
        sums = rows.sum(1)
        rows = rows[(sums <= total) & (sums + room >= total)]
        if len(rows) > MOST:
            break
    return rows
