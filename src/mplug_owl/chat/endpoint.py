"""Any server that speaks OpenAI's language as a ChatModel: vLLM, SGLang, llama.cpp, Ollama, OpenAI's own."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any

from mplug_owl.chat.address import Endpoint
from mplug_owl.chat.asynchronous import from_asynchronous
from mplug_owl.chat.faults import (
    BadReply,
    error_message,
    fault_of,
    import_openai,
    read_answer,
    read_chunk,
    read_usage,
    refuse_empty,
)
from mplug_owl.chat.messages import chat_messages
from mplug_owl.chat.picture_url import picture_url
from mplug_owl.chat.protocol import Decoding
from mplug_owl.chat.settled import clean_answer, settled_answer
from mplug_owl.conversation import Conversation
from mplug_owl.errors import RefusedConversationError, UserError

# A server that is there says so within this many seconds.
REACHED_WITHIN = 10.0
# Waits between tries double up to this many seconds.
LONGEST_BACKOFF = 30.0
# OpenAI refuses more; the others are found in the answer.
STOP_WORDS = 4


@dataclass(frozen=True)
class Usage:
    """What a server has counted, as far as it says: replies, tokens of prompts and of answers."""

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.replies + other.replies,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


class EndpointChatModel:
    """A model on a server as a ChatModel. A fault that may pass is met with patience, any other is a UserError at once.

    Tries are counted here and not by the openai package, to which a reply of junk is a reply.

    Args:
        endpoint: Where the server is, and how it is asked.

    Raises:
        UserError: The package openai is not installed.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._openai = import_openai()
        self.endpoint = endpoint
        self._usage, self._lock = Usage(), threading.Lock()
        self._is_reached = False
        self._limit = "max_tokens"  # what the server calls the longest answer; OpenAI's newer models refuse this name

    @property
    def usage(self) -> Usage:
        """What all replies so far have cost, those without an answer too."""
        return self._usage

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order. Raises UserError as `arriving` does."""
        found = dict(self.arriving(conversations, decoding))
        return [found[index] for index in range(len(conversations))]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Generator[tuple[int, str], None, None]:
        """Each answer with its conversation's position, as soon as it is whole.

        Raises:
            UserError: The server is not there, refuses, or has failed too often. Requests that were under way are waited
                for first, and their answers come before the error.
            BadSample: A picture cannot be opened.
        """
        yield from from_asynchronous(self._arriving(conversations, decoding))

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The next answer as it comes. Closing the generator closes the connection.

        Raises:
            UserError: As `arriving`, and where the connection breaks after the first words.
            BadSample: A picture cannot be opened.
        """
        yield from from_asynchronous(self._streaming(conversation, decoding))

    async def _arriving(
        self, conversations: Sequence[Conversation], decoding: Decoding
    ) -> AsyncGenerator[tuple[int, str], None]:
        waiting, failure = iter(range(len(conversations))), asyncio.Event()
        under_way: dict[asyncio.Task[str], int] = {}
        raised: list[BaseException] = []
        async with self._client() as client:
            await self._reach(client)
            try:
                while True:
                    while not raised and len(under_way) < self.endpoint.concurrency:
                        if (index := next(waiting, None)) is None:
                            break
                        task = asyncio.create_task(self._answer(client, conversations[index], decoding, failure))
                        under_way[task] = index
                    if not under_way:
                        break
                    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        index = under_way.pop(task)
                        if (error := task.exception()) is None:
                            yield index, task.result()
                        else:
                            raised.append(error)
                            failure.set()
            finally:
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)
        if raised:
            raise raised[0]

    async def _answer(self, client: Any, conversation: Conversation, decoding: Decoding, failure: asyncio.Event) -> str:
        """The answer to one conversation, tried as often as the endpoint allows, but not again after another's `failure`."""
        request = await asyncio.to_thread(self._request, conversation, decoding)
        for tried in count(1):
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    raw = await self._create(client.chat.completions.with_raw_response, request)
                reply = json.loads(raw.content)
                self._count(*read_usage(reply))
                return clean_answer(read_answer(reply), decoding.stop)
            except Exception as error:
                wait = self._wait_or_raise(error, tried, last=failure.is_set())
                if await _happens(failure, wait):
                    raise
        raise AssertionError("unreachable: the last try raises")

    async def _streaming(self, conversation: Conversation, decoding: Decoding) -> AsyncGenerator[str, None]:
        request = await asyncio.to_thread(self._request, conversation, decoding)
        async with self._client() as client:
            await self._reach(client)
            for tried in count(1):
                shown = False
                try:
                    async with aclosing(self._parts(client, request, decoding)) as parts:
                        async for part in parts:
                            shown = True
                            yield part
                    return
                except Exception as error:
                    wait = self._wait_or_raise(error, tried, last=shown)
                await asyncio.sleep(wait)

    async def _parts(self, client: Any, request: dict[str, Any], decoding: Decoding) -> AsyncGenerator[str, None]:
        """The parts of one answer from one try."""
        words, shown, reason = "", "", None
        async with await self._create(client.chat.completions, {**request, "stream": True}) as chunks:
            async for chunk in chunks:
                new, ended = read_chunk(chunk)
                words, reason = words + new, ended or reason
                settled = settled_answer(words, decoding.stop)
                if len(settled) > len(shown):
                    yield settled[len(shown) :]
                    shown = settled
                if any(word in words for word in decoding.stop):
                    return
        if reason is None:
            raise BadReply("the stream broke off before its end")
        refuse_empty(words, reason)
        if rest := clean_answer(words, decoding.stop)[len(shown) :]:
            yield rest

    def _client(self) -> Any:
        """The openai package's client, which tries each request once."""
        timeout = self._openai.Timeout(self.endpoint.timeout, connect=min(REACHED_WITHIN, self.endpoint.timeout))
        return self._openai.AsyncOpenAI(
            base_url=self.endpoint.address, api_key=self.endpoint.key() or "none", timeout=timeout, max_retries=0
        )

    async def _reach(self, client: Any) -> None:
        """Ask for the list of models, so that a server which is not there is found at once and not after all tries."""
        if self._is_reached:
            return
        try:
            async with asyncio.timeout(REACHED_WITHIN):
                await client.with_options(max_retries=2).models.with_raw_response.list()
        except (TimeoutError, self._openai.APIConnectionError, self._openai.AuthenticationError) as error:
            fault = fault_of(error)
            raise UserError(self._redacted(f"{self.endpoint.name}: {fault.words if fault else error}")) from error
        except self._openai.APIError:
            pass  # it has no such list, but it is there
        self._is_reached = True

    async def _create(self, completions: Any, request: dict[str, Any]) -> Any:
        """Send a request, with the longest answer under the name that the server knows."""
        name = self._limit
        try:
            return await completions.create(**{name if key == "limit" else key: value for key, value in request.items()})
        except self._openai.BadRequestError as error:
            other = "max_completion_tokens"
            if name == other or other not in error_message(error.body):
                raise
            self._limit = other
        return await self._create(completions, request)

    def _request(self, conversation: Conversation, decoding: Decoding) -> dict[str, Any]:
        """A conversation and a decoding in OpenAI's words."""
        if decoding.repetition_penalty != 1:
            raise UserError(f"{self.endpoint.name}: a server takes no repetition_penalty; expected 1")
        messages = chat_messages(conversation, lambda source: {"type": "image_url", "image_url": {"url": picture_url(source)}})
        for message in messages:
            if all(part["type"] == "text" for part in message["content"]):  # which is what every server reads
                message["content"] = "".join(part["text"] for part in message["content"])
        request = {
            "model": self.endpoint.model,
            "messages": messages,
            "temperature": decoding.temperature,
            "limit": decoding.max_new_tokens,
        }
        if decoding.temperature > 0:
            request["top_p"] = decoding.top_p
        if decoding.stop:
            request["stop"] = list(decoding.stop[:STOP_WORDS])
        return request

    def _wait_or_raise(self, error: Exception, tried: int, last: bool) -> float:
        """The seconds until the next try; raises where there is none."""
        fault = fault_of(error)
        if fault is None:
            raise error
        if last or not fault.again or tried > self.endpoint.retries:
            tries = f", in {tried} tries" if tried > 1 else ""
            kind = RefusedConversationError if fault.too_long else UserError
            raise kind(self._redacted(f"{self.endpoint.name}: {fault.words}{tries}")) from error
        backoff = min(self.endpoint.backoff * 2 ** (tried - 1), LONGEST_BACKOFF)
        return (backoff if fault.wait is None else fault.wait) * random.uniform(1, 1.25)

    def _redacted(self, words: str) -> str:
        """Words without the key, which some servers repeat where they refuse it."""
        key = self.endpoint.key()
        return words.replace(key, "***") if key else words

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        with self._lock:
            self._usage += Usage(1, prompt_tokens, completion_tokens)


async def _happens(event: asyncio.Event, within: float) -> bool:
    """Whether an event is set within so many seconds; returns as soon as it is."""
    try:
        return await asyncio.wait_for(event.wait(), within)
    except TimeoutError:
        return False
