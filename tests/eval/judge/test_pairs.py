"""Two answers in both orders: a contradiction is a tie, and what is on the disk is what was judged."""

from pathlib import Path

import pytest

from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.eval.judge.judge import Judge
from mplug_owl.eval.judge.pairs import Pair, PairsFile, compare, pairs_of, read_pairs
from tests.eval.judge.test_judge import Stub, answers


class Prefers(Stub):
    """A stub that takes the answer with these words, or the first one."""

    def __init__(self, words: str | None) -> None:
        super().__init__()
        self.words = words

    def arriving(self, conversations, decoding):
        for position, _ in super().arriving(conversations, decoding):
            yield position, f"BETTER: {self.choice(conversations[position])}"

    def choice(self, talk: Conversation) -> int:
        words = talk.messages[0].text
        return 1 if self.words is None or self.words in words.partition("ASSISTANT 2")[0] else 2


def pairs_by(stub: Stub) -> list[Pair]:
    return list(compare(Judge(stub, "stub"), pairs_of([*answers(2, "zoo", "blue {}"), *answers(2, "ark", "red {}")])))


def test_every_two_systems_are_compared_in_both_orders() -> None:
    stub = Prefers("red")
    pairs = pairs_by(stub)
    assert [(pair.first.model, pair.second.model, pair.verdict, pair.flipped) for pair in pairs] == [
        ("ark", "zoo", "first", False)
    ] * 2
    assert len(stub.heard) == 4
    assert [pair.shown_first_won for pair in pairs] == [(1, 2)] * 2
    assert all(pair.verdict == "second" for pair in pairs_by(Prefers("blue")))


def test_a_contradiction_is_a_tie() -> None:
    for pair in pairs_by(Prefers(None)):
        assert pair.orders == ("first", "second")
        assert (pair.verdict, pair.flipped, pair.shown_first_won) == ("tie", True, (2, 2))


def test_a_tie_and_a_choice_are_a_tie_and_what_cannot_be_read_is_nothing() -> None:
    one, other = answers(1)[0], answers(1, "two")[0]
    assert Pair(one, other, ("tie", "first"), "stub").verdict == "tie"
    assert Pair(one, other, ("tie", "first"), "stub").flipped
    unread = Pair(one, other, (None, "first"), "stub")
    assert (unread.verdict, unread.flipped) == (None, False)


def test_only_those_who_answered_are_compared() -> None:
    assert pairs_of([*answers(1, "one"), *answers(1, "two", " ")]) == []
    assert len(pairs_of([answer for model in "abc" for answer in answers(2, model)])) == 6


def test_pairs_come_back_from_their_file(tmp_path: Path) -> None:
    path, both = tmp_path / "pairs.jsonl", [*answers(2, "zoo", "blue {}"), *answers(2, "ark", "red {}")]
    file, made = PairsFile(path, "quiz"), list(compare(Judge(Prefers("red"), "stub"), pairs_of(both)))
    for pair in made:
        file.add(pair)
    assert read_pairs(path, "quiz", both) == made
    assert read_pairs(path, "quiz", both, "another judge") == []
    assert read_pairs(path, "quiz", answers(2, "ark", "red {}")) == []  # one system is not in this table
    assert made[0].row("quiz")["verdict"] == "first"
    with pytest.raises(UserError, match="changed since"):
        read_pairs(path, "quiz", [*answers(2, "zoo", "green {}"), *answers(2, "ark", "red {}")])
    with pytest.raises(UserError, match="not of owleval"):
        read_pairs(path, "owleval", both)
