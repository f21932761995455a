"""What clients send and get, in OpenAI's words: requests read strictly, and every refusal with its reason.

A field that would change the answer and is not known here is refused. Those that change nothing are accepted and ignored.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import PydanticCustomError, from_json

# Deeper than any request that has a meaning here: a picture's address is at depth 7.
DEPTH = 16
# Entries of all objects and lists. 600,000 of them in 17 MB kept the event loop, and so everybody, for many seconds.
ENTRIES = 20_000
MESSAGES = 512
# Characters of all messages, pictures aside. A tokenizer takes a second or more for them, in a thread of its own.
CHARACTERS = 400_000
STOPS, STOP_CHARACTERS = 4, 200  # OpenAI's number of stop words
ANSWERS = 8
LIKELIEST = 20  # OpenAI's top_logprobs

_REASONS = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "literal_error": "has a value that is not known here",
}


class RequestError(Exception):
    """A request that is not answered: its status, a sentence of ours, the field, and OpenAI's name of the kind."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's servers say it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        kind = kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class TextPart(_Strict):
    """Words."""

    type: Literal["text"]
    text: str


class PictureAddress(_Strict):
    """Where a picture is: a `data:` URL, or an https address that the server allows."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class PicturePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: PictureAddress


Part = Annotated[TextPart | PicturePart, Field(discriminator="type")]


class ChatMessage(_Strict):
    """What one side says."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    # Empty, they stand in an answer that OpenAI's package writes out, and that comes back with the next question.
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @field_validator("content", mode="before")
    @classmethod
    def _refuse_other_parts(cls, content: Any) -> Any:
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in ("text", "image_url"):
                raise PydanticCustomError("part", "holds a part that is neither text nor image_url; nothing else is read here")
        return content

    @property
    def parts(self) -> Sequence[TextPart | PicturePart]:
        """Text and pictures in their order."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)] if self.content else []
        return self.content or []


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class TextFormat(_Strict):
    """Answers are plain text."""

    type: Literal["text"]


Stop = Annotated[str, StringConstraints(min_length=1, max_length=STOP_CHARACTERS)]
Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]


class ChatRequest(_Strict):
    """A conversation to be continued, as /v1/chat/completions takes it."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    n: Annotated[int, Field(ge=1, le=ANSWERS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=LIKELIEST)] | None = None
    # Accepted where they ask for nothing.
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Nothing | None = None
    functions: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    # Accepted and ignored: they change no word.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The words before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


# Why fields that OpenAI has are refused, where that needs more than "is not known here".
HINTS = {
    "tools": "an owl calls no tools; leave tools out",
    "functions": "an owl calls no functions; leave functions out",
    "tool_choice": "an owl calls no tools; leave tool_choice out",
    "response_format": "answers are plain text; expected type text",
    "modalities": "an owl answers in words; expected text",
    "audio": "an owl neither hears nor speaks; leave audio out",
    "frequency_penalty": "is not computed here; expected 0, or give repetition_penalty",
    "presence_penalty": "is not computed here; expected 0, or give repetition_penalty",
    "logit_bias": "is not computed here; leave it out",
}


def read_request(body: bytes) -> ChatRequest:
    """A request from its body.

    Raises:
        RequestError: It is no JSON, too deep, or has a field that is wrong: the first of them is named.
    """
    try:
        values = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:  # the parser's own text would quote the body
        raise RequestError(400, "the body is not JSON that can be read here; expected an object in UTF-8") from error
    if not isinstance(values, dict):
        raise RequestError(400, "the body is JSON but no object")
    _refuse_large(values)
    try:
        request = ChatRequest.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None
    _check(request)
    return request


def _check(request: ChatRequest) -> None:
    """What one field alone does not say."""
    if request.max_tokens is not None and request.max_completion_tokens not in (None, request.max_tokens):
        raise RequestError(400, "max_tokens and max_completion_tokens differ; give one of them", "max_tokens")
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError(400, "top_logprobs needs logprobs to be true", "top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise RequestError(400, "stream_options needs stream to be true", "stream_options")
    words = sum(len(part.text) for message in request.messages for part in message.parts if isinstance(part, TextPart))
    if words > CHARACTERS:
        raise RequestError(413, f"the messages have more than {CHARACTERS:,} characters", "messages")


def _refusal(error: ValidationError) -> RequestError:
    """The first thing that is wrong, by the field's name and a sentence of ours: no value of the client's is repeated."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = ".".join(str(step) for step in first["loc"] if not str(step).startswith(("constrained-str", "list[", "str")))
    top = str(first["loc"][0]) if first["loc"] else ""
    if top in HINTS:
        return RequestError(400, f"{top}: {HINTS[top]}", top)
    known = len(param) <= 120 and param.isascii() and param.replace(".", "").replace("_", "").isalnum()
    name = param if known else "a field"
    reason = _REASONS.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:]
    return RequestError(400, f"{name}: {reason}", name if known else None)


def _refuse_large(values: dict[str, Any]) -> None:
    """Raise RequestError where a body has too many entries or levels, before anything is made of it."""
    level: list[Any] = [values]
    entries = 0
    for _ in range(DEPTH):
        inner: list[Any] = []
        for one in level:
            entries += len(one)
            if entries > ENTRIES:
                raise RequestError(413, f"the body's objects and lists have more than {ENTRIES:,} entries")
            inner += [value for value in (one.values() if isinstance(one, dict) else one) if isinstance(value, (dict, list))]
        if not inner:
            return
        level = inner
    raise RequestError(400, f"the body is nested deeper than {DEPTH} levels")
