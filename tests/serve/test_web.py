"""The page: its routes are locked, and in a browser a picture is shown, asked about, streamed, stopped and edited.

It needs gradio beside the package, and for the browser playwright and chromium: the extras `web` and `browser`.
"""

import asyncio
import base64
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mplug_owl.scenes import scene
from mplug_owl.serve.door import OPEN, WEB
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.protocol import RequestError
from tests.serve.served import KEY
from tests.tiny import tiny_config, tiny_owl, tiny_processor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]  # Gradio leaves loops open
gradio = pytest.importorskip("gradio", reason="the page is shown by the extra `web`")
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Gradio leaves an event loop open; it is swept here, and not where pytest looks for what we left."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def server() -> Any:
    from mplug_owl.model.load import Owl
    from mplug_owl.serve.api import Server
    from mplug_owl.serve.web import add_page

    model = tiny_owl(tiny_config())
    made = Server({"owl": Owl(model, tiny_processor(model))}, Keys([KEY]))
    add_page(made, Keys([KEY]))
    return made


def routes_of(server: Any) -> set[tuple[str, str]]:
    """Every route of the application and of what is mounted in it, with something in place of what its path names."""
    return set(_routes(server.routes.routes, ""))


def _routes(routes: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:  # whose routes have its prefix already
            yield from _routes(included.routes, prefix)
        elif (mounted := getattr(getattr(route, "app", None), "routes", None)) is not None:
            yield from _routes(mounted, prefix + route.path)
        else:
            path = prefix + re.sub(r"\{[^}]*\}", "x", route.path)
            yield from ((path, method) for method in getattr(route, "methods", None) or ("GET",))


def ask(server: Any, path: str, method: str, *headers: tuple[bytes, bytes]) -> int:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        sent.append(message)

    known = [(b"host", b"owl.example"), (b"content-type", b"application/json"), *headers]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": known}
    asyncio.run(server.app(scope, receive, send))
    return int(sent[0]["status"])


def test_every_route_is_refused_without_a_key(server: Any) -> None:
    routes = routes_of(server)
    assert sum(path.startswith(f"{WEB}/gradio_api/") for path, _ in routes) > 30
    for path, method in sorted(routes):
        assert ask(server, path, method) == 401, (method, path)
        assert ask(server, path, method, (b"cookie", b"owl_session=guessed")) == 401, (method, path)


def test_most_of_gradios_routes_are_not_there_with_a_key(server: Any) -> None:
    key = (b"authorization", f"Bearer {KEY}".encode())
    closed = [
        (path, method)
        for path, method in routes_of(server)
        if path.startswith(f"{WEB}/") and not (method in OPEN and OPEN[method].fullmatch(path)) and method != "HEAD"
    ]
    assert len(closed) > 40
    for path, method in closed:
        assert ask(server, path, method, key) == 404, (method, path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "", "scene.txt", "none.png"])
def test_only_pictures_of_its_own_folder_are_read(path: str, tmp_path: Path) -> None:
    from mplug_owl.serve.web import _picture

    (tmp_path / "scene.txt").write_text("secret")
    Image.new("RGB", (2, 2)).save(tmp_path.parent / "outside.png")
    (tmp_path / "linked.png").symlink_to(tmp_path.parent / "outside.png")
    for file in (str(tmp_path / path), {"path": path}, str(tmp_path / "linked.png"), "../outside.png"):
        with pytest.raises(RequestError, match="cannot be read"):
            _picture(file, tmp_path)


def test_an_address_in_place_of_a_picture_is_not_fetched(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio would fetch it from any host of the internet, for whoever names it in place of a file that was sent."""
    from gradio import processing_utils, route_utils

    for where, name in ((processing_utils.sh, "get"), (route_utils.safehttpx, "async_validate_url")):
        monkeypatch.setattr(where, name, lambda *_, **__: pytest.fail("it is fetched"))
    named = {"path": "https://evil.example/a.png", "meta": {"_type": "gradio.FileData"}}
    moving = processing_utils.async_move_files_to_cache(named, gradio.Image(), check_in_upload_folder=True)
    with pytest.raises(gradio.Error, match="fetches none"):
        asyncio.run(moving)
    key = (b"authorization", f"Bearer {KEY}".encode())
    assert ask(server, f"{WEB}/gradio_api/file=https://evil.example/a.html", "GET", key) == 404


def test_the_page_asks_for_no_longer_answers_than_there_are() -> None:
    """A slider that begins above its end refuses every question."""
    from mplug_owl.model.load import Owl
    from mplug_owl.serve.answering import AnswerLimits
    from mplug_owl.serve.api import ServeLimits, Server
    from mplug_owl.serve.web import add_page

    model = tiny_owl(tiny_config())
    short = Server({"owl": Owl(model, tiny_processor(model))}, Keys([KEY]), ServeLimits(answers=AnswerLimits(most_tokens=100)))
    add_page(short, Keys([KEY]))
    apps = (getattr(route, "app", None) for route in short.routes.routes)
    (page,) = (app.blocks for app in apps if hasattr(app, "blocks"))
    lengths = [one for one in page.blocks.values() if isinstance(one, gradio.Slider) and "tokens" in one.label]
    assert [(one.value, one.maximum) for one in lengths] == [(100, 100)]


@contextmanager
def owl_serve(folder: Path, model: str = "owl-tiny") -> Iterator[tuple[str, subprocess.Popen]]:
    """The command itself, and the page's address that it prints."""
    (folder / "keys.txt").write_text(f"{KEY}\n")
    command = [sys.executable, "-m", "mplug_owl_cli", "serve", model, "--web", "--port", "0"]
    command += ["--keys", str(folder / "keys.txt"), "--grace", "20"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert server.stdout is not None
    try:
        address = re.search(r"page (http://\S+)", server.stdout.readline())
        assert address, "owl serve has ended"
        yield address[1], server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


class Visitor:
    """Somebody at a browser, and everything that went wrong there."""

    def __init__(self, browser: Any, width: int, scheme: str) -> None:
        touch = width < 500
        size = {"width": width, "height": 844 if touch else 900}
        self.context = browser.new_context(
            viewport=size, has_touch=touch, is_mobile=touch, color_scheme=scheme, permissions=["camera"]
        )
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("response", lambda one: self.problems.append(f"{one.status} {one.url}") if one.status >= 400 else None)
        self.page.on(
            "request", lambda one: self.problems.append(one.url) if "://" in one.url and not self.own(one.url) else None
        )
        self.address = ""

    def own(self, url: str) -> bool:
        return url.startswith((self.address.partition("/web")[0], "blob:"))

    def enter(self, address: str) -> None:
        self.address = address
        self.page.goto(address)
        self.page.fill("input[name=key]", "x" * 32)
        self.page.click("button")
        assert "opens nothing" in self.page.inner_text("main")
        self.page.fill("input[name=key]", KEY)
        self.problems.clear()  # those refusals
        self.page.click("button")
        self.page.wait_for_selector("#ask textarea")
        self.page.wait_for_timeout(500)

    def ask(self, words: str) -> None:
        self.page.fill("#ask textarea", words)
        self.page.keyboard.press("Enter")

    def answers(self) -> list[str]:
        return [one.inner_text().strip() for one in self.page.query_selector_all("#talk .bot .prose")]

    def wait_for(self, count: int) -> None:
        """So many answers are there, and nothing is being answered."""
        self.until(f"document.querySelectorAll('#talk .bot .prose').length >= {count}")
        self.page.wait_for_selector("#ask button.submit-button", timeout=60_000)

    def until(self, expression: str, seconds: float = 60) -> None:
        """Until an expression is true. playwright's own way to wait evaluates text, which the page's policy forbids."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(50)

    def no_wider_than_the_screen(self) -> None:
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.page.viewport_size["width"]


@pytest.fixture(scope="module")
def browser() -> Any:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by the extra `browser`")
    if CHROMIUM is None:
        pytest.skip("chromium is not on the path")
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *fake])
        yield chromium
        chromium.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_conversation(browser: Any, width: int, scheme: str, tmp_path: Path) -> None:
    scene(20).draw().save(tmp_path / "scene.png")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "other.png")
    shots = Path(os.environ.get("OWL_SCREENSHOTS", tmp_path))
    with owl_serve(tmp_path) as (address, server):
        visitor = Visitor(browser, width, scheme)
        visitor.enter(address)
        page = visitor.page
        visitor.no_wider_than_the_screen()
        page.screenshot(path=shots / f"web-{width}-begin.png")
        page.set_input_files("#ask input[type=file]", [str(tmp_path / "scene.png"), str(tmp_path / "other.png")])
        visitor.until("document.querySelectorAll('#ask img').length >= 2")
        visitor.ask("Is there a circle?")
        visitor.wait_for(1)
        assert visitor.answers()[0]
        assert len(page.query_selector_all("#talk .user img")) == 2
        visitor.until("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        page.click("text=Draw me a scene")
        page.wait_for_selector("#ask img")
        visitor.ask("What do you see?")
        visitor.wait_for(2)
        visitor.no_wider_than_the_screen()
        page.screenshot(path=shots / f"web-{width}-talk.png")
        edit(visitor, "What is written in the picture?")
        assert "What is written in the picture?" in page.inner_text("#talk")
        assert "What do you see?" not in page.inner_text("#talk")
        page.click("#talk button[aria-label=Retry]")
        visitor.wait_for(2)
        photograph(visitor)
        page.screenshot(path=shots / f"web-{width}-camera.png")
        assert visitor.problems == []
        page.click("text=Leave")
        page.wait_for_selector("input[name=key]")
        server.terminate()
        assert server.wait(15) == 0  # an open page keeps it from nothing


# A picture in the clipboard, or in the hand, let go over an element; the page sees the events that a person's would be.
GIVE = """([kind, selector, letters]) => {
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    const held = new DataTransfer();
    held.items.add(new File([bytes], "scene.png", { type: "image/png" }));
    const how = { bubbles: true, cancelable: true, clipboardData: held, dataTransfer: held };
    const event = (name) => (name === "paste" ? new ClipboardEvent(name, how) : new DragEvent(name, how));
    const names = kind === "paste" ? ["paste"] : ["dragenter", "dragover", "drop"];
    names.forEach((name) => document.querySelector(selector).dispatchEvent(event(name)));
}"""


def test_a_picture_is_pasted_and_one_is_dragged(browser: Any, tmp_path: Path) -> None:
    """Either is attached, shown in the question, and seen by the model, which names what is in it."""
    shots = Path(os.environ.get("OWL_SCREENSHOTS", tmp_path))
    with owl_serve(tmp_path) as (address, _):
        visitor = Visitor(browser, 1280, "light")
        visitor.enter(address)
        page = visitor.page
        for kind, seed, words in (("paste", 20, "blue circle, blue square"), ("drop", 31, "orange heart")):
            packed = io.BytesIO()
            scene(seed).draw().save(packed, "PNG")
            page.evaluate(GIVE, [kind, "#ask textarea", base64.b64encode(packed.getvalue()).decode()])
            visitor.until("[...document.querySelectorAll('#ask img')].some(one => one.complete && one.naturalWidth > 0)")
            visitor.ask("List the things in reading order, separated by commas.")
            visitor.wait_for(1)
            assert len(page.query_selector_all("#talk .user img")) == 1
            visitor.until("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
            page.screenshot(path=shots / f"web-{kind}.png")
            assert visitor.answers() == [words]
            page.reload()
            page.wait_for_selector("#ask textarea")
            page.wait_for_timeout(500)
        assert visitor.problems == []


def edit(visitor: Visitor, words: str) -> None:
    """Change the last question and have it answered anew."""
    visitor.page.query_selector_all("#talk button[aria-label=Edit]")[-1].click()
    visitor.page.wait_for_selector("#talk textarea")
    visitor.page.fill("#talk textarea", words)
    visitor.page.click("#talk button[aria-label=Submit]")
    visitor.until(f"document.querySelector('#talk').innerText.includes({words!r})")
    visitor.page.wait_for_timeout(1500)
    visitor.wait_for(2)


def photograph(visitor: Visitor) -> None:
    """Take a picture with the camera; it waits for the next question."""
    page = visitor.page
    page.click("text=Camera")
    page.click("text=Click to Access Webcam")
    page.click("#camera button[aria-label='capture photo']")
    page.wait_for_selector("#ask img", timeout=20_000)
    page.wait_for_selector("#camera", state="hidden")


def test_a_long_answer_streams_and_is_stopped(browser: Any, tmp_path: Path) -> None:
    """An untrained owl talks until its positions end: its words come one by one, and stop when they are stopped."""
    model = tiny_owl(tiny_config())
    model.save_pretrained(tmp_path / "talker")
    tiny_processor(model).save_pretrained(tmp_path / "talker")
    with owl_serve(tmp_path, str(tmp_path / "talker")) as (address, _):
        visitor = Visitor(browser, 1280, "light")
        visitor.enter(address)
        page, lengths = visitor.page, [0]
        visitor.ask("What do you see?")
        while len(set(lengths)) < 5 and len(lengths) < 2000:
            lengths.append(page.evaluate("document.querySelector('#talk .bot .prose')?.innerText.length ?? 0"))
        assert len(set(lengths)) >= 5, set(lengths)  # it grew while it was watched
        page.click("#ask button.stop-button", timeout=5000)
        page.wait_for_selector("#ask button.submit-button", timeout=10_000)
        stopped = visitor.answers()[-1]
        page.wait_for_timeout(1500)
        assert visitor.answers()[-1] == stopped
        visitor.ask("And now?")
        visitor.wait_for(2)
        assert len(visitor.answers()[0]) < len(visitor.answers()[1])  # which nobody stopped
        assert visitor.problems == []
