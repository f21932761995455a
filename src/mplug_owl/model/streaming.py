"""What generate is given beside the prompt: where its tokens go, and when it stops. And one clean-up of what it answered."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TokenQueue(BaseStreamer):
    """What generate hands over as it comes: lists of new token ids in a queue, None at the end."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[int] | None] = SimpleQueue()
        self._prompt = True

    def put(self, value: Tensor) -> None:
        """Called by generate with the prompt first, then with each token."""
        if not self._prompt:
            self.queue.put(value.flatten().tolist())
        self._prompt = False

    def end(self) -> None:
        """Called at the end of an answer, and where generate has failed."""
        self.queue.put(None)


class StopWhenClosed(StoppingCriteria):
    """Ends generation where nobody waits for the answer any more."""

    def __init__(self, closed: Event) -> None:
        self.closed = closed

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.closed.is_set(), device=input_ids.device)


class StopAtWords(StoppingCriteria):
    """Ends each row where its answer, after a prompt of `length` tokens, has one of the words."""

    def __init__(self, decode: Callable[[Sequence[int]], str], words: Sequence[str], length: int) -> None:
        self.decode, self.words, self.length = decode, words, length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        answers = [self.decode(row) for row in input_ids[:, self.length :].tolist()]
        return torch.tensor([any(word in answer for word in self.words) for answer in answers], device=input_ids.device)


def clean_answer(answer: str, stop: Sequence[str]) -> str:
    """An answer up to the first stop word, without space around it."""
    for word in stop:
        answer = answer.partition(word)[0]
    return answer.strip()


def settled_answer(answer: str, stop: Sequence[str]) -> str:
    """The part of an unfinished answer that no later token can change.

    Not settled are half a character, space at the end, and what may become a stop word.
    """
    if any(word in answer for word in stop):  # then it is finished
        return clean_answer(answer, stop)
    answer = answer.rstrip("\ufffd")
    begun = [length for word in stop for length in range(1, len(word)) if answer.endswith(word[:length])]
    return answer[: len(answer) - max(begun, default=0)].strip()


def stream_answer(
    generate: Callable[[TokenQueue, Event], object], decode: Callable[[list[int]], str], stop: Sequence[str]
) -> Generator[str, None, None]:
    """An answer as it comes, generated in a thread. Closing the generator ends it within a token.

    Args:
        generate: Puts the answer's tokens into the queue, and ends soon once the event is set.
        decode: Ids to words.
        stop: The answer ends before the first of these words.
    """
    tokens, closed = TokenQueue(), Event()
    ids: list[int] = []
    shown = ""
    with ThreadPoolExecutor(max_workers=1) as worker:
        work = worker.submit(generate, tokens, closed)
        work.add_done_callback(lambda _: tokens.end())
        try:
            while (new := tokens.queue.get()) is not None:
                ids += new
                settled = settled_answer(decode(ids), stop)
                if len(settled) > len(shown):
                    yield settled[len(shown) :]
                    shown = settled
            work.result()
            if rest := clean_answer(decode(ids), stop)[len(shown) :]:
                yield rest
        finally:
            closed.set()
