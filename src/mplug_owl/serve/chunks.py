"""Answers in OpenAI's shapes: whole, or chunk by chunk."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from mplug_owl.serve.answering import Answering, Saying, Words
from mplug_owl.serve.engine import Token
from mplug_owl.serve.protocol import ChatRequest, RequestError

DONE = b"data: [DONE]\n\n"


class Reply:
    """One request's reply.

    Args:
        request: What was asked.
        answering: What is answered.
    """

    def __init__(self, request: ChatRequest, answering: Answering) -> None:
        self.request, self.answering = request, answering
        self.head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}

    async def whole(self) -> dict[str, Any]:
        """A chat.completion. Raises RequestError as `Answering.parts` does."""
        async for _ in self.answering.parts():
            pass
        # off the event loop: log-probabilities may be a hundred thousand entries
        choices = await asyncio.to_thread(self._choices) if self.request.logprobs else self._choices()
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": self.usage()}

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: chunks, usage where it was asked for, and [DONE]. A failure midway is an event too."""
        wants_usage = self.request.stream_options is not None and self.request.stream_options.include_usage
        usage: dict[str, Any] = {"usage": None} if wants_usage else {}
        begun: set[int] = set()
        try:
            async for part in self.answering.parts():
                if part.index not in begun:
                    begun.add(part.index)
                    yield self._chunk(part.index, {"role": "assistant", "content": ""}, None, None, usage)
                if part.new:
                    yield self._chunk(part.index, {"content": part.new}, None, self._logprobs(part.saying), usage)
                if part.saying.reason is not None:
                    yield self._chunk(part.index, {}, finish_reason(part.saying), self._logprobs(part.saying), usage)
        except RequestError as error:
            yield _event(error.body)
            return
        if wants_usage:
            yield _event({**self.head, "object": "chat.completion.chunk", "choices": [], "usage": self.usage()})
        yield DONE

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompt, pictures' positions included, and of the answers, end tokens included."""
        jobs, answers = self.answering.jobs, sum(len(saying.ids) for saying in self.answering.sayings)
        prompt = len(jobs[0].ids)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answers,
            "total_tokens": prompt + answers,
            "prompt_tokens_details": {"cached_tokens": jobs[0].known},
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], reason: str | None, logprobs: dict[str, Any] | None, usage: dict[str, Any]
    ) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        return _event({**self.head, "object": "chat.completion.chunk", "choices": [choice], **usage})

    def _choices(self) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "message": {"role": "assistant", "content": saying.text, "refusal": None},
                "finish_reason": finish_reason(saying),
                "logprobs": self._logprobs(saying),
            }
            for index, saying in enumerate(self.answering.sayings)
        ]

    def _logprobs(self, saying: Saying) -> dict[str, Any] | None:
        """Those of the tokens since the last call, where the client asks for them."""
        tokens, saying.unsaid = saying.unsaid, []
        if not self.request.logprobs:
            return None
        said = len(saying.ids) - len(tokens)  # an answer's words begin without a space, and so does its first token
        return {"content": [_entry(saying.words, token, not said + at) for at, token in enumerate(tokens)], "refusal": None}


def finish_reason(saying: Saying) -> str:
    """OpenAI has two for words alone; an answer that the clock ended is as unfinished as one that was too long."""
    return "stop" if saying.reason == "stop" else "length"


def _entry(words: Words, token: Token, first: bool) -> dict[str, Any]:
    def one(number: int, logprob: float) -> dict[str, Any]:
        text = words.token(number).removeprefix(" " if first else "")
        part = "\ufffd" in text  # of a character: its bytes are not known from here
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": None if part else list(text.encode("utf-8"))}

    return {**one(token.id, token.logprob), "top_logprobs": [one(*pair) for pair in token.likeliest]}


def _event(value: dict[str, Any]) -> bytes:
    """In ASCII: many a client takes U+2028 and the like for the end of a line."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n\n"
