"""Two systems' answers side by side: a judge compares them in both orders, and a contradiction is a tie."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import cast, get_args

from mplug_owl.chat import arriving
from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.judge.judge import AT_ONCE, Judge, OpenPictures
from mplug_owl.eval.judge.prompt import VERSION, Verdict, compare_prompt, read_verdict
from mplug_owl.eval.lines import AppendedLines, read_lines, text

PAIRS = "pairs.jsonl"
# Which pair a line is about: question, split, mode, and both systems in the order of their names.
PairKey = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, and which is better.

    Args:
        first: The answer of the system whose name comes first in the alphabet.
        second: The other one.
        orders: What was chosen where `first` was shown first, and where it was shown second; None where nobody could read it.
        judge: Who compared them.
        replies: The judge's whole replies, in the same order.
    """

    first: Answer
    second: Answer
    orders: tuple[Verdict | None, Verdict | None]
    judge: str
    replies: tuple[str, str] = ("", "")

    @property
    def verdict(self) -> Verdict | None:
        """What both orders agree on. A tie where they contradict each other, as in MT-Bench (arXiv 2306.05685)."""
        one, other = self.orders
        if one is None or other is None:
            return None
        return one if one == other else "tie"

    @property
    def flipped(self) -> bool:
        """Whether the order changed what was chosen."""
        return self.verdict is not None and self.orders[0] != self.orders[1]

    @property
    def shown_first_won(self) -> tuple[int, int]:
        """How often the answer that was shown first was chosen, and how often one was chosen at all."""
        one, other = self.orders
        return (one == "first") + (other == "second"), (one in ("first", "second")) + (other in ("first", "second"))

    @property
    def key(self) -> PairKey:
        """Which pair this is."""
        return pair_key(self.first, self.second)

    def row(self, task: str) -> dict[str, object]:
        """A line of pairs.jsonl."""
        question, condition = self.first.question, self.first.condition
        return {
            "task": task,
            "question_id": question.id,
            "split": condition.split,
            "mode": condition.mode,
            "image": question.cluster,
            "first": self.first.model,
            "second": self.second.model,
            "verdict": self.verdict,
            "orders": list(self.orders),
            "flipped": self.flipped,
            "judge": self.judge,
            "prompt": VERSION,
            "answer_digests": [self.first.digest, self.second.digest],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "replies": list(self.replies),
        }


def pair_key(first: Answer, second: Answer) -> PairKey:
    """Question, split, mode and both systems."""
    return first.question.id, first.condition.split, first.condition.mode, first.model, second.model


def pairs_of(answers: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Every two systems' answers to one question, where both gave one."""
    by_question: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        if answer.text.strip():
            by_question.setdefault((answer.question.id, answer.condition.split, answer.condition.mode), []).append(answer)
    return [pair for here in by_question.values() for pair in combinations(sorted(here, key=lambda one: one.model), 2)]


def compare(judge: Judge, pairs: Sequence[tuple[Answer, Answer]]) -> Iterator[Pair]:
    """Each pair as soon as both of its orders are judged. Raises UserError as a judge's `arriving` does."""
    model = judge.cached()
    pictures = OpenPictures()
    for start in range(0, len(pairs), AT_ONCE // 2):
        chunk = pairs[start : start + AT_ONCE // 2]
        prompts = []
        for first, second in chunk:
            shown = pictures.of(first.question)
            prompts += [compare_prompt(*order, shown, bool(shown)) for order in ((first, second), (second, first))]
        replies: dict[int, str] = {}
        for position, reply in arriving(model, prompts, judge.decoding):
            replies[position] = reply
            number = position // 2
            if {2 * number, 2 * number + 1} <= replies.keys():
                yield _pair(*chunk[number], replies[2 * number], replies[2 * number + 1], judge.name)


def _pair(first: Answer, second: Answer, reply: str, swapped: str, judge: str) -> Pair:
    """What the second order chose is turned round, so that both speak of the same answers."""
    other = read_verdict(swapped)
    turned: dict[Verdict | None, Verdict | None] = {"first": "second", "second": "first"}
    return Pair(first, second, (read_verdict(reply), turned.get(other, other)), judge, (reply, swapped))


class PairsFile:
    """Appends pairs to a file, each on the disk when `add` returns."""

    def __init__(self, path: Path, task: str) -> None:
        self.task = task
        self._lines = AppendedLines(path)

    def add(self, pair: Pair) -> None:
        """Write one pair. Raises WriteError where the disk is full."""
        self._lines.append(pair.row(self.task))


def read_pairs(path: Path, task: str, answers: Sequence[Answer], judge: str | None = None) -> list[Pair]:
    """The pairs in a file whose answers are these. A later line of one judge takes the place of an earlier one.

    Args:
        path: A pairs.jsonl.
        task: What was asked.
        answers: Those that may be compared; lines about other systems are left out.
        judge: Whose pairs; everybody's where None.

    Raises:
        UserError: A line is damaged, is about another task, or about an answer that has changed since.
    """
    known = {pair_key(first, second): (first, second) for first, second in pairs_of(answers)}
    found: dict[tuple[PairKey, str], Pair] = {}
    for number, row in read_lines(path):
        where = f"{path}, line {number}"
        if row.get("task") != task:
            raise UserError(f"{where}: a pair of {row.get('task')!r:.80}, not of {task}")
        names = ("question_id", "split", "mode", "first", "second")
        pair = known.get(cast(PairKey, tuple(text(row, name, where) for name in names)))
        by = text(row, "judge", where)
        if pair is None or judge not in (None, by) or row.get("prompt") != VERSION:
            continue
        if row.get("answer_digests") != [pair[0].digest, pair[1].digest]:
            raise UserError(f"{where}: an answer to question {row['question_id']} has changed since; give another --out")
        made = Pair(*pair, _orders(row, where), by, _replies(row))
        found[made.key, by] = made
    return list(found.values())


def _orders(row: Mapping[str, object], where: str) -> tuple[Verdict | None, Verdict | None]:
    orders = row.get("orders")
    if not isinstance(orders, list) or len(orders) != 2 or any(one not in (None, *get_args(Verdict)) for one in orders):
        raise UserError(f"{where}: orders is {orders!r:.80}; expected two of first, second, tie and null")
    return orders[0], orders[1]


def _replies(row: Mapping[str, object]) -> tuple[str, str]:
    replies = row.get("replies")
    return (str(replies[0]), str(replies[1])) if isinstance(replies, list) and len(replies) == 2 else ("", "")
