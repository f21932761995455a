"""Between requests and the engine: words to jobs, and tokens to words as they come."""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mplug_owl.chat.owl import answer_words
from mplug_owl.chat.protocol import Decoding
from mplug_owl.chat.settled import clean_answer, settled_answer
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.model.generation import refuse_too_long
from mplug_owl.model.load import Owl
from mplug_owl.serve.engine import ClosedError, End, Engine, Job, QueueFullError, Reason, Token
from mplug_owl.serve.kept import KnownPicture
from mplug_owl.serve.protocol import ChatRequest, RequestError


@dataclass(frozen=True)
class AnswerLimits:
    """What one answer may take.

    Args:
        default_tokens: An answer's length where the client gives none: `owl chat`'s.
        most_tokens: An answer's length, whatever the client gives.
        prompt_tokens: A prompt's length, positions of pictures included.
        seconds: From the request to the answer's end.
        temperature: Where the client gives none.
    """

    default_tokens: int = 256
    most_tokens: int = 1024
    prompt_tokens: int = 8192
    seconds: float = 300.0
    temperature: float = 0.0


class Words:
    """A model's words to ids and back. One thread at a time reads words: a tokenizer's settings are changed while it does.

    Ids become words at any time: a long text is read for seconds, and everybody's next word would wait for it.
    """

    def __init__(self, owl: Owl) -> None:
        self.owl, self._lock = owl, threading.Lock()
        self._tokens: dict[int, str] = {}

    def encode(self, conversation: Conversation) -> list[int]:
        """The ids of a conversation that is to be answered. Raises UserError where it is too long, or its format refuses it."""
        with self._lock:
            sample = self.owl.processor.encode(conversation, reply=True)
        refuse_too_long(len(sample), self.owl.model.config.text_config)
        return list(sample.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's ids to words."""
        return answer_words(self.owl.model, self.owl.processor, ids)

    def token(self, token: int) -> str:
        """One token as it stands among others, with the space that it begins with; special ones too."""
        if token not in self._tokens:
            once, twice = (str(self.owl.processor.decode([token] * count, skip_special_tokens=False)) for count in (1, 2))
            self._tokens[token] = twice[len(once) :]
        return self._tokens[token]


class Mailbox:
    """Events from the engine's thread to tasks of an event loop, which is woken once for many."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._letters, self._lock, self._called = loop, deque[tuple[Any, Any]](), threading.Lock(), False

    def put(self, inbox: "asyncio.Queue[Any]", letter: object) -> None:
        """From any thread."""
        with self._lock:
            self._letters.append((inbox, letter))
            if self._called:
                return
            self._called = True
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            letters, self._letters, self._called = self._letters, deque(), False
        for inbox, letter in letters:
            inbox.put_nowait(letter)


@dataclass
class Saying:
    """One answer's words while its tokens come.

    `ids` are all of them, `text` what was said, which is at the end where nobody `listens`.
    """

    words: Words
    stop: tuple[str, ...]
    listens: bool = True
    ids: list[int] = field(default_factory=list)
    text: str = ""
    reason: Reason | None = None
    unsaid: list[Token] = field(default_factory=list)  # whose log-probabilities are not sent yet

    def hear(self, event: Token | End) -> None:
        """Note what the engine says."""
        if isinstance(event, Token):
            self.ids.append(event.id)
            self.unsaid.append(event)
        else:
            self.reason = event.reason

    def news(self) -> str:
        """What all that was heard since the last time adds to the words."""
        if self.reason is None and not self.listens:
            return ""
        words = self.words.decode(self.ids)
        settled = settled_answer(words, self.stop) if self.reason is None else clean_answer(words, self.stop)
        new = settled[len(self.text) :]
        self.text += new
        return new


@dataclass(frozen=True)
class Part:
    """What was added to one of a request's answers: `new` words; `saying` has all of it."""

    index: int
    new: str
    saying: Saying


class Answering:
    """The answers to one request.

    Args:
        jobs: What the engine works on.
        sayings: Their words.
        inbox: Where the engine's events arrive.
    """

    def __init__(self, jobs: list[Job], sayings: list[Saying], inbox: "asyncio.Queue[tuple[int, Token | End]]") -> None:
        self.jobs, self.sayings, self.inbox = jobs, sayings, inbox
        self.first: float | None = None  # seconds until the first token
        self.seconds = 0.0

    async def parts(self) -> AsyncIterator[Part]:
        """Parts of the answers as they come, with the end of each. Whoever stops listening has the rest cancelled.

        Raises:
            RequestError: The engine failed, or nothing was said in time.
        """
        try:
            while any(saying.reason is None for saying in self.sayings):
                heard = dict.fromkeys([self._hear(*await self.inbox.get())])
                while not self.inbox.empty():  # what came meanwhile is said at once
                    heard[self._hear(*self.inbox.get_nowait())] = None
                for index in heard:
                    saying = self.sayings[index]
                    new = saying.news()
                    if new or saying.reason is not None:
                        yield Part(index, new, saying)
        finally:
            self.seconds = time.perf_counter() - self.jobs[0].begun
            self.cancel()

    def _hear(self, index: int, event: Token | End) -> int:
        """Note an event of one of the answers, whose index comes back. Raises RequestError where there is no answer."""
        if self.first is None and isinstance(event, Token):
            self.first = time.perf_counter() - self.jobs[0].begun
        if isinstance(event, End) and event.reason in ("failed", "late"):
            raise failure(event.reason)
        self.sayings[index].hear(event)
        return index

    def cancel(self) -> None:
        """Have the engine stop within a token; what is done stays done."""
        for job, saying in zip(self.jobs, self.sayings, strict=True):
            job.cancelled = job.cancelled or saying.reason is None


def failure(reason: Reason) -> RequestError:
    """What a client gets where the engine gave no answer."""
    if reason == "late":
        return RequestError(503, "the server had no time for this request; try again later", code="timeout")
    return RequestError(500, "the model failed on this request; the server's log has the reason")


class Desk:
    """Takes requests for one model to the engine.

    Args:
        name: What clients call the model.
        owl: Model and processor.
        engine: Who answers.
        limits: What one answer may take.
    """

    def __init__(self, name: str, owl: Owl, engine: Engine, limits: AnswerLimits) -> None:
        self.name, self.engine, self.limits, self.words = name, engine, limits, Words(owl)
        self._thread = ThreadPoolExecutor(1, f"words of {name}")

    async def encode(self, conversation: Conversation) -> list[int]:
        """A conversation to ids, off the event loop. Raises RequestError where the model refuses it."""
        try:
            ids = await asyncio.get_running_loop().run_in_executor(self._thread, self.words.encode, conversation)
        except UserError as error:
            code = "context_length_exceeded" if "positions" in str(error) else None
            raise RequestError(400, str(error), "messages", code) from None
        if len(ids) > self.limits.prompt_tokens:
            reason = f"the prompt has {len(ids)} tokens, pictures included; at most {self.limits.prompt_tokens} are read"
            raise RequestError(400, reason, "messages", "context_length_exceeded")
        return ids

    def submit(
        self,
        request: ChatRequest,
        ids: list[int],
        pictures: Sequence[KnownPicture],
        owner: bytes,
        mailbox: Mailbox,
        deadline: float,
    ) -> Answering:
        """Have a request answered, until `deadline` by time.monotonic().

        Raises:
            RequestError: The queue is full, or the server closes.
        """
        inbox: asyncio.Queue[tuple[int, Token | End]] = asyncio.Queue()
        decoding = self.decoding(request)
        first = random.getrandbits(62) if request.seed is None else request.seed % 2**62
        jobs = [
            Job(
                ids,
                pictures,
                decoding,
                lambda event, index=index: mailbox.put(inbox, (index, event)),  # type: ignore[misc]  # a default argument
                owner,
                (first + index) % 2**62,
                (request.top_logprobs or 0) if request.logprobs else None,
                deadline,
            )
            for index in range(request.n or 1)
        ]
        try:
            self.engine.submit(self.name, jobs)
        except QueueFullError:
            raise RequestError(429, "too many requests wait; try again in a moment", code="queue_full") from None
        except ClosedError:
            raise RequestError(503, "the server closes; try another, or later") from None
        return Answering(jobs, [Saying(self.words, decoding.stop, bool(request.stream)) for _ in jobs], inbox)

    def decoding(self, request: ChatRequest) -> Decoding:
        """How a request's tokens are chosen. A length above the server's is the server's: it was a limit, and is one."""
        length = request.max_completion_tokens or request.max_tokens or self.limits.default_tokens
        return Decoding(
            max_new_tokens=min(length, self.limits.most_tokens),
            temperature=self.limits.temperature if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            stop=request.stops,
            repetition_penalty=request.repetition_penalty or 1.0,
        )
