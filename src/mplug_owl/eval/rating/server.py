"""The page's server: FastAPI in front of the raters, guarded against pages of other sites."""

import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import get_args
from urllib.parse import parse_qs, urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from mplug_owl.errors import BadSample, UserError, WriteError
from mplug_owl.eval.grade import LETTERS
from mplug_owl.eval.rating import page
from mplug_owl.eval.rating.people import Progress
from mplug_owl.eval.rating.raters import Outcome, Raters
from mplug_owl.page.listening import base_address, bound, is_local
from mplug_owl.page.render import render

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# `same-origin`, because a browser that may not say where it comes from does not say its Origin either.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# A form of ours has a few hundred bytes.
LARGEST_FORM = 4096
LOCAL = ("127.0.0.1", "localhost", "::1")


def make_app(raters: Raters, rater: str | None = None, local: bool = True) -> FastAPI:
    """The application.

    Over 40 lines, so that every address is seen in one list.

    Args:
        raters: Who grades, and what.
        rater: The one person who grades here; None asks for a name.
        local: Answer only where this machine is addressed by its local names, so that no site can pose as it.
    """
    only = raters.progress(rater) if rater is not None else None
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pictures = page.Pictures.of(list(raters.answers))
    script = render("eval/rating/rate.js.jinja")

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = refusal(request, local)
        response = Response(refused[1], refused[0], media_type="text/plain") if refused else await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.exception_handler(UserError)
    def misnamed(request: Request, error: UserError) -> Response:
        return HTMLResponse(page.start_page(str(error)), 400)

    @app.exception_handler(WriteError)
    def unsaved(request: Request, error: WriteError) -> Response:
        print(f"owl: {error}", file=sys.stderr)
        return HTMLResponse(page.problem_page("The disk takes no more. Tell whoever runs this page, then try again."), 507)

    @app.get("/")
    def start() -> Response:
        return HTMLResponse(page.start_page()) if only is None else _go(page.address(only))

    @app.post("/")
    async def name(request: Request) -> Response:
        return _go(page.address(raters.progress((await _form(request)).get("name", ""))))

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/rate.js")
    def keys() -> Response:
        return Response(script, media_type="text/javascript")

    @app.get("/picture/{identity}")
    def picture(identity: str) -> Response:
        try:
            found = pictures.encoded(identity)
        except (KeyError, BadSample):
            return Response("no such picture", 404, media_type="text/plain")
        return Response(found.content, media_type=found.media_type, headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/rate/{name}")
    def item(name: str, notice: str = "") -> Response:
        person = _allowed(raters.progress(name), only)
        outcome: Outcome | None = next((one for one in get_args(Outcome) if one == notice), None)
        return HTMLResponse(page.item_page(person, raters.summary(person), pictures, outcome))

    @app.post("/rate/{name}")
    async def act(name: str, request: Request) -> Response:
        person, form = _allowed(raters.progress(name), only), await _form(request)
        outcome = await run_in_threadpool(
            _act, raters, person, form.get("item", ""), form.get("action", "")
        )  # waits for the disk
        return _go(page.address(person) + ("" if outcome == "graded" else f"?notice={outcome}"))

    @app.get("/rate/{name}/grades.jsonl")
    def grades(name: str) -> Response:
        lines = "".join(page.export(_allowed(raters.progress(name), only), raters.gold))
        headers = {"Content-Disposition": 'attachment; filename="my-grades.jsonl"'}
        return Response(lines, media_type="application/x-ndjson", headers=headers)

    return app


def refusal(request: Request, local: bool) -> tuple[int, str] | None:
    """Why a request is not answered, with its status: it comes from a page of another site, or is no form of ours."""
    host = request.headers.get("host", "")
    if local and urlsplit(f"//{host}").hostname not in LOCAL:
        return 421, "this page is served to this machine alone"
    if request.method != "POST":
        return None
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != host) or site not in ("same-origin", "none"):
        return 403, "grades are taken from this page alone, not from another site"
    length = request.headers.get("content-length", "")
    if not re.fullmatch(r"\d{1,9}", length) or int(length) > LARGEST_FORM:
        return 413, f"a form of this page has a length, of at most {LARGEST_FORM} bytes"
    return None


def serve(raters: Raters, host: str, port: int, rater: str | None, started: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `started` gets the address. Raises UserError where the port cannot be had."""
    with bound(host, port) as listening:
        app = make_app(raters, rater, is_local(host))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", server_header=False, access_log=False, timeout_graceful_shutdown=3)
        )
        listening.listen()
        started(f"{base_address(host, listening)}/")
        with suppress(KeyboardInterrupt):  # uvicorn closes what is open, then passes Ctrl-C on
            server.run(sockets=[listening])


def _act(raters: Raters, person: Progress, item: str, action: str) -> Outcome:
    letter = next((one for one in LETTERS if one == action), None)
    if letter is not None:
        return raters.grade(person, item, letter)
    if action == "undo":
        return raters.undo(person, item)
    return raters.skip(person, item) if action == "skip" else "stale"


def _allowed(person: Progress, only: Progress | None) -> Progress:
    """Somebody who may grade here."""
    if only is not None and person is not only:
        raise HTTPException(404, "somebody else grades here")
    return person


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, the last of each name."""
    return {name: values[-1] for name, values in parse_qs((await request.body()).decode("utf-8", "replace")).items()}


def _go(address: str) -> RedirectResponse:
    return RedirectResponse(address, 303)
