"""transformers' generate as a generator of tokens: it runs in a thread and puts them into a queue.

For models of transformers alone; our own are continued by `decode`.
"""

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


def generated_tokens(generate: Callable[[TokenQueue, Event], object]) -> Generator[int, None, None]:
    """The tokens of an answer as they come, generated in a thread. Closing the generator ends it within a token.

    Args:
        generate: Puts the answer's tokens into the queue, and ends soon once the event is set.
    """
    tokens, closed = TokenQueue(), Event()
    with ThreadPoolExecutor(max_workers=1) as worker:
        work = worker.submit(generate, tokens, closed)
        work.add_done_callback(lambda _: tokens.end())
        try:
            while (new := tokens.queue.get()) is not None:
                yield from new
            work.result()
        finally:
            closed.set()
