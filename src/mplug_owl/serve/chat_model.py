"""The engine as a ChatModel: exams and programs of one's own are answered in the same batch as everybody's requests."""

import secrets
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from queue import SimpleQueue

import torch
from PIL import Image

from mplug_owl.chat.protocol import Decoding
from mplug_owl.chat.settled import clean_answer, settled_parts
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import Owl
from mplug_owl.model.open_picture import open_image, to_square
from mplug_owl.serve.answering import Words
from mplug_owl.serve.engine import End, Engine, Job, QueueFullError, Token
from mplug_owl.serve.kept import KnownPicture

# Where others have filled the queue, it is tried again after so many seconds.
AGAIN_SECONDS = 0.05


class EngineChatModel:
    """One of an engine's models as a ChatModel. Any number of threads may ask it at once.

    Args:
        name: What the engine calls the model.
        owl: Model and processor.
        engine: Who answers; it has begun.
    """

    def __init__(self, name: str, owl: Owl, engine: Engine) -> None:
        self.name, self.engine, self.words = name, engine, Words(owl)
        self._images = owl.processor.image_processor
        self._known: dict[int, tuple[weakref.ref[Picture], KnownPicture]] = {}

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order. Raises as `arriving` does."""
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """Each answer as soon as it is whole, with its conversation's position. Where words are drawn, by torch's seed.

        Raises:
            UserError: A conversation is longer than the model's positions. Then none is answered.
            BadSample: A picture cannot be opened.
            RuntimeError: The engine failed on an answer.
            ClosedError: The engine was closed.
        """
        events: SimpleQueue[tuple[int, Token | End]] = SimpleQueue()
        jobs = [self._job(talk, decoding, number, events) for number, talk in enumerate(conversations)]
        ids: list[list[int]] = [[] for _ in jobs]
        waiting, asked = deque(enumerate(jobs)), 0
        try:
            while waiting or asked:
                while waiting and self._submitted(waiting[0][1], must=not asked):
                    waiting.popleft()
                    asked += 1
                number, event = events.get()
                if isinstance(event, Token):
                    ids[number].append(event.id)
                    continue
                if event.reason not in ("stop", "length"):
                    raise RuntimeError(f"the engine gave no answer: {event.reason}")
                asked -= 1
                yield number, clean_answer(self.words.decode(ids[number]), decoding.stop)
        finally:
            for job in jobs:
                job.cancelled = True

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes; closing the generator cancels it within a token. Raises as `arriving` does."""
        events: SimpleQueue[tuple[int, Token | End]] = SimpleQueue()
        job = self._job(conversation, decoding, 0, events)
        self._submitted(job, must=True)
        with closing(_tokens(job, events)) as tokens:
            yield from settled_parts(tokens, self.words.decode, decoding.stop)

    def _job(self, talk: Conversation, decoding: Decoding, number: int, events: "SimpleQueue[tuple[int, Token | End]]") -> Job:
        seed = int(torch.randint(2**62, ())) if decoding.temperature > 0 else 0
        pictures = [self._picture(picture) for picture in talk.pictures]
        return Job(self.words.encode(talk), pictures, decoding, lambda event: events.put((number, event)), seed=seed)

    def _picture(self, picture: Picture) -> KnownPicture:
        """A picture with a name of its own as long as somebody holds it, opened here: the engine answers others too."""
        holder, known = self._known.get(id(picture), (None, None))
        if known is None or holder is None or holder() is not picture:
            square = to_square(open_image(picture.source), self._images.size, self._images.resample)
            known, key = KnownPicture(Image.fromarray(square), secrets.token_bytes(16)), id(picture)
            self._known[key] = weakref.ref(picture, lambda _: self._known.pop(key, None)), known
        return known

    def _submitted(self, job: Job, must: bool) -> bool:
        """Whether the queue had room; where it `must`, this waits until it has."""
        while True:
            try:
                self.engine.submit(self.name, [job])
            except QueueFullError:
                if not must:
                    return False
                time.sleep(AGAIN_SECONDS)
            else:
                return True


def _tokens(job: Job, events: "SimpleQueue[tuple[int, Token | End]]") -> Generator[int, None, None]:
    try:
        while isinstance(event := events.get()[1], Token):
            yield event.id
        if event.reason not in ("stop", "length"):
            raise RuntimeError(f"the engine gave no answer: {event.reason}")
    finally:
        job.cancelled = True
