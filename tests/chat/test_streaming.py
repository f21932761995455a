"""Tokens as generate hands them over, and what ends it: alone, without a model."""

from threading import Event

import torch

from mplug_owl.chat.streaming import StopAtWords, StopWhenClosed, TokenQueue

SCORES = torch.zeros(2, 5)


def test_a_queue_leaves_the_prompt_out_and_ends() -> None:
    tokens = TokenQueue()
    for value in (torch.tensor([[1, 2, 3]]), torch.tensor([4]), torch.tensor([5])):
        tokens.put(value)
    tokens.end()
    assert [tokens.queue.get() for _ in range(3)] == [[4], [5], None]


def test_whoever_closes_stops_every_row() -> None:
    closed = Event()
    criterion, ids_BT = StopWhenClosed(closed), torch.ones(2, 3, dtype=torch.long)
    assert criterion(ids_BT, SCORES).tolist() == [False, False]
    closed.set()
    assert criterion(ids_BT, SCORES).tolist() == [True, True]


def test_a_stop_word_stops_its_row_and_only_after_the_prompt() -> None:
    """Letters for tokens: the word is in one answer, and in the other's prompt."""
    criterion = StopAtWords(lambda ids: "".join(map(chr, ids)), ("ab", "x"), 2)
    rows = torch.tensor([[ord(letter) for letter in row] for row in ("..cab", "ab..c")])
    assert criterion(rows, SCORES).tolist() == [True, False]
    assert criterion(rows[:, :4], SCORES).tolist() == [False, False]
