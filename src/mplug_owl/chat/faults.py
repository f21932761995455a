"""What went wrong when a server was asked, in words, and whether asking again may help."""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from mplug_owl.errors import UserError
from mplug_owl.model.images import shortened

# A wait that a server asks for is granted up to so many seconds: limits by the minute are waited for, those by the hour not.
LONGEST_WAIT = 120.0
# The codes that may be gone a moment later: time-outs, conflicts, too early, too many. All from 500 on are, too.
PASSING = (408, 409, 425, 429)
# How servers say that a conversation is longer than their model's context: OpenAI's and ours, vLLM, llama.cpp, SGLang.
TOO_LONG = re.compile(r"context[_ ](length|size|window)", re.IGNORECASE)
HINTS = {
    400: "the server refuses the request",
    401: "the key is refused; put the right one into OWL_API_KEY or OPENAI_API_KEY",
    403: "the key has no right to this; put another into OWL_API_KEY or OPENAI_API_KEY",
    404: "no such model or address; expected http://HOST/v1#MODEL with a model that the server has",
    413: "the request is too large for the server; its pictures need to be smaller",
}


class BadReply(Exception):  # noqa: N818  (it is the reply that is bad)
    """A reply that holds no answer. `again` says whether another try may bring one."""

    def __init__(self, words: str, again: bool = True) -> None:
        super().__init__(words)
        self.again = again


@dataclass(frozen=True)
class Fault:
    """Why a try failed.

    Args:
        words: The reason.
        again: Whether another try may help.
        wait: How many seconds the server asks to wait before it, None where it does not say.
        too_long: Whether it is this conversation that the server has no room for.
    """

    words: str
    again: bool
    wait: float | None = None
    too_long: bool = False


def fault_of(error: Exception) -> Fault | None:
    """The fault that an error of the openai package is; None for an error that is our own."""
    openai = import_openai()
    match error:
        case BadReply():
            return Fault(str(error), error.again)
        case TimeoutError() | openai.APITimeoutError():
            return Fault("no answer in time", True)
        case openai.APIStatusError():
            return _refused(error.status_code, error.body, error.response.headers)
        case openai.APIConnectionError():
            return Fault(
                f"the connection failed ({shortened(str(error.__cause__ or error)) or type(error.__cause__).__name__})", True
            )
        case openai.APIError():
            return Fault(shortened(error.message), True)
        case json.JSONDecodeError() | UnicodeDecodeError() | RecursionError():
            return Fault("the reply is no JSON", True)
    # Before 3 the package let its HTTP library's errors through where a stream breaks off.
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
        return Fault(f"the connection failed ({shortened(str(error))})", True)
    return None


def read_answer(reply: Any) -> str:
    """The words of a chat completion.

    No words are an answer only where the server says that the model stopped by itself.

    Raises:
        BadReply: There is none in it.
    """
    choice = _first_choice(reply)
    message, reason = choice.get("message"), choice.get("finish_reason")
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, str):
        raise BadReply(f"a reply without content (finish_reason {shortened(str(reason))})")
    refuse_empty(content, reason)
    return content


def read_chunk(chunk: object) -> tuple[str, str | None]:
    """The words of one chunk of a stream, and why the stream ends where it does."""
    choices = getattr(chunk, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    content, reason = getattr(getattr(choice, "delta", None), "content", None), getattr(choice, "finish_reason", None)
    return (content if isinstance(content, str) else ""), (reason if isinstance(reason, str) else None)


def refuse_empty(content: str, reason: object) -> None:
    """Raise BadReply where an answer is empty and the model did not stop by itself."""
    if content.strip() or reason == "stop":
        return
    if reason == "length":
        raise BadReply("no word within the longest answer; raise max_new_tokens", again=False)
    raise BadReply(f"an empty answer (finish_reason {shortened(str(reason))})")


def read_usage(reply: Any) -> tuple[int, int]:
    """The tokens that a reply says it took, of the prompt and of the answer; 0 where it does not say."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    counts = [usage.get(name) if isinstance(usage, Mapping) else 0 for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return prompt, completion


def error_message(body: object) -> str:
    """What an error's body says, in whichever of the usual shapes."""
    if isinstance(body, Mapping) and isinstance(body.get("error"), (Mapping, str)):
        body = body["error"]
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or ""
    return shortened(" ".join(str(body or "").split()))


def _first_choice(reply: Any) -> Mapping[str, Any]:
    if not isinstance(reply, Mapping):
        raise BadReply("the reply is no JSON object")
    choices = reply.get("choices")
    if not choices and reply.get("error"):  # some servers say so with code 200
        raise BadReply(f"the server reports an error ({error_message(reply)})")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise BadReply("a reply without choices")
    return choices[0]


def _refused(status: int, body: object, headers: Mapping[str, str]) -> Fault:
    said = error_message(body)
    words = f"error {status}" + (f", {said}" if said else "")
    code = body.get("code") if isinstance(body, Mapping) else None
    if status == 429 and code == "insufficient_quota":
        return Fault(f"{words}; the key's credit is spent", False)
    if status in PASSING or status >= 500:
        wait = _asked_wait(headers)
        if wait is not None and wait > LONGEST_WAIT:
            return Fault(f"{words}; the server asks to wait {wait:,.0f} seconds", False)
        return Fault(words, True, wait)
    too_long = status == 413 or (status in (400, 422) and bool(TOO_LONG.search(f"{code} {said}")))
    return Fault(f"{words}; {HINTS[status]}" if status in HINTS else words, False, too_long=too_long)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of `retry-after-ms` or `Retry-After`, which may be a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def import_openai() -> Any:
    """The openai package. Raises UserError where it is not installed."""
    try:
        import openai
    except ImportError as error:
        raise UserError("asking a server needs the package openai: pip install 'mplug-owl[eval]'") from error
    return openai
