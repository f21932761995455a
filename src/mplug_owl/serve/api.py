"""The routes: OpenAI's chat completions and models, health, readiness, metrics."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from weakref import WeakSet

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from mplug_owl.model.load import Owl
from mplug_owl.serve.answering import Answering, AnswerLimits, Desk, Mailbox, failure
from mplug_owl.serve.chunks import Reply
from mplug_owl.serve.conversations import conversation, picture_urls
from mplug_owl.serve.engine import Engine
from mplug_owl.serve.fetch import Fetcher
from mplug_owl.serve.guard import App, Guard, GuardLimits, Keys, Receive, Scope, Send
from mplug_owl.serve.lane import Lane, LaneLimits
from mplug_owl.serve.media import Media, MediaLimits
from mplug_owl.serve.metrics import AnswerStats, Metrics
from mplug_owl.serve.protocol import ChatRequest, RequestError, read_request

_HINTS = {
    "/v1/responses": "this server has no responses; use /v1/chat/completions",
    "/v1/completions": "this server has no text completions; use /v1/chat/completions",
    "/v1/embeddings": "an owl makes no embeddings; use /v1/chat/completions",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "A field is wrong, or a picture cannot be read.",
        401: "No valid key.",
        404: "There is no such model.",
        408: "The body took too long.",
        413: "Too large.",
        415: "No JSON.",
        421: "Addressed by another name.",
        429: "The queue is full.",
        500: "The model failed.",
        503: "No time, or closing.",
    }.items()
}


@dataclass(frozen=True)
class ServeLimits:
    """All limits of a server; `queue` is how many answers wait at most."""

    queue: int = 256
    answers: AnswerLimits = field(default_factory=AnswerLimits)
    lane: LaneLimits = field(default_factory=LaneLimits)
    media: MediaLimits = field(default_factory=MediaLimits)
    guard: GuardLimits = field(default_factory=GuardLimits)


class Server:
    """Models with what answers for them; `app` is the locked application.

    Args:
        owls: Models by the names that clients ask for.
        keys: What opens the door; None lets everybody in.
        limits: All of its limits.
        fetcher: Who fetches remote pictures; None refuses them.
        local: Answer to local names alone.
        stats: Print a line for each answer.
    """

    def __init__(
        self,
        owls: Mapping[str, Owl],
        keys: Keys | None,
        limits: ServeLimits | None = None,
        fetcher: Fetcher | None = None,
        local: bool = False,
        stats: bool = False,
    ) -> None:
        self.limits, self.stats, self.owls, self.began = limits or ServeLimits(), stats, dict(owls), int(time.time())
        lanes = {name: Lane(owl, self.limits.lane, self._worked) for name, owl in owls.items()}
        self.engine = Engine(lanes, self.limits.queue)
        self.metrics = Metrics(self.engine)
        self.media = Media(self.limits.media, fetcher)
        self.desks = {name: Desk(name, owl, self.engine, self.limits.answers) for name, owl in owls.items()}
        self.mailbox: Mailbox | None = None
        self.draining = False
        self._answerings: WeakSet[Answering] = WeakSet()
        self.endless: list[Callable[[], None]] = []  # each ends requests that would never end by themselves
        self.routes = _routes(self)
        self.guard = Guard(self.routes, keys, self.limits.guard, local)
        self.app: App = self.guard

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the engine with the application, and end it after the last answer."""
        self.mailbox = Mailbox(asyncio.get_running_loop())
        self.engine.start()
        yield
        self.draining = True
        for answering in self._answerings:  # whoever is connected was waited for; nobody waits for what is left
            answering.cancel()
        await asyncio.to_thread(self.engine.close)
        await asyncio.to_thread(self.media.close)

    async def answer(self, body: bytes, owner: bytes) -> Reply:
        """Read a request and have it answered. Raises RequestError where it is refused."""
        begin, seconds = time.perf_counter(), self.limits.answers.seconds
        deadline = time.monotonic() + seconds
        with self.engine.coming():
            request = read_request(body)
            desk = self.desk(request.model)
            urls = picture_urls(request, self.limits.media.pictures)
            before = time.perf_counter()
            images = self.owls[desk.name].processor.image_processor
            try:
                async with asyncio.timeout(seconds):  # others' pictures may come first, and a host may be slow
                    pictures = await self.media.read(urls, owner, images) if urls else []
                    picture_seconds = time.perf_counter() - before
                    ids = await desk.encode(conversation(request, pictures))
            except TimeoutError:
                raise failure("late") from None
            if self.mailbox is None:
                raise RequestError(503, "the server has not begun")
            answering = desk.submit(request, ids, pictures, owner, self.mailbox, deadline)
            self._answerings.add(answering)
        for job in answering.jobs:
            job.begun, job.picture_seconds = begin, picture_seconds
        return Reply(request, answering)

    def desk(self, name: str) -> Desk:
        """Who takes requests for a model. Raises RequestError where there is none of that name."""
        if name not in self.desks:
            raise RequestError(404, "there is no such model; /v1/models lists them", "model", "model_not_found")
        return self.desks[name]

    def model(self, name: str) -> dict[str, Any]:
        """A model as OpenAI lists it."""
        self.desk(name)
        return {"id": name, "object": "model", "created": self.began, "owned_by": "mplug-owl"}

    def took(self, model: str, answering: Answering) -> None:
        """Count what was answered."""
        job = answering.jobs[0]
        tokens = sum(len(saying.ids) for saying in answering.sayings)
        stats = AnswerStats(model, answering.seconds, answering.first, len(job.ids), job.known, tokens, job.picture_seconds)
        self.metrics.took(stats)
        if self.stats:
            with suppress(OSError, ValueError):  # nobody reads the log any more, or its disk is full
                print(stats.line(), file=sys.stderr, flush=True)

    def _worked(self, work: str, seconds: float) -> None:
        self.metrics.worked(work, seconds)


class _Application(FastAPI):
    """FastAPI's, with the request's shape in the document that describes it."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = get_openapi(title=self.title, version=version("mplug-owl"), routes=self.routes)
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)  # here it is 400
            shapes = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"] = {
                "schemas": {**shapes.pop("$defs"), "ChatRequest": shapes},
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            }
            self.openapi_schema = document | {"security": [{"key": []}]}
        return self.openapi_schema


# Over 40 lines, so that every address is seen in one list.
def _routes(server: Server) -> FastAPI:
    app = _Application(title="owl serve", docs_url=None, redoc_url=None, lifespan=server.lifespan, redirect_slashes=False)
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
        return JSONResponse(error.body, error.status, headers)

    @app.exception_handler(HTTPException)
    async def misdirected(request: Request, error: HTTPException) -> Response:
        hint = _HINTS.get(request.scope["path"], "there is no such address; see /v1/models and /v1/chat/completions")
        message = hint if error.status_code == 404 else "this address has no such method"
        return JSONResponse(RequestError(error.status_code, message).body, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse(RequestError(400, "the request is malformed").body, 400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(RequestError(500, "the server failed on this request; its log has the reason").body, 500)

    @app.post("/v1/chat/completions", responses=_ERRORS, openapi_extra={"requestBody": {"required": True, "content": shape}})
    async def complete(request: Request) -> Response:
        """The next answer in a conversation."""
        reply = await server.answer(await request.body(), request.scope["state"]["owner"])
        if reply.request.stream:
            return _Streamed(server, reply)
        whole = await _unless_left(request, reply)
        server.took(reply.request.model, reply.answering)
        return JSONResponse(whole)

    @app.get("/v1/models", responses={401: _ERRORS[401], 421: _ERRORS[421]})
    async def models() -> Response:
        """The models that answer."""
        return JSONResponse({"object": "list", "data": [server.model(name) for name in server.desks]})

    @app.get("/v1/models/{name:path}", responses=_ERRORS)
    async def model(name: str) -> Response:
        """One model."""
        return JSONResponse(server.model(name))

    @app.get("/health", responses=_ERRORS)
    async def health() -> Response:
        """Whether the engine lives."""
        return JSONResponse(
            {"status": "ok"} if server.engine.is_alive else {"status": "dead"}, 200 if server.engine.is_alive else 503
        )

    @app.get("/ready", responses=_ERRORS)
    async def ready() -> Response:
        """Whether a request would be taken now."""
        free = server.engine.is_alive and not server.draining and server.engine.waiting < server.engine.queue
        return JSONResponse({"status": "ready" if free else "busy"}, 200 if free else 503)

    @app.get("/metrics", responses=_ERRORS)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


class _Streamed(StreamingResponse):
    """A stream's events; what it took is counted at its end, whoever ends it, even before its first one."""

    def __init__(self, server: Server, reply: Reply) -> None:
        super().__init__(reply.stream(), media_type="text/event-stream")
        self.server, self.reply = server, reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, then see to it that nothing more is computed."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.reply.answering.cancel()
            self.server.took(self.reply.request.model, self.reply.answering)


async def _unless_left(request: Request, reply: Reply) -> dict[str, Any]:
    """A whole answer, cancelled where the client leaves before it is there."""
    answer, left = asyncio.ensure_future(reply.whole()), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise RequestError(499, "the client left")
        return answer.result()
    finally:
        reply.answering.cancel()
        for task in (answer, left):
            task.cancel()
        await asyncio.gather(answer, left, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
