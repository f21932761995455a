"""What the page asks of the server, without Gradio."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mplug_owl.serve.api import ServeLimits
from mplug_owl.serve.guard import Guard, GuardLimits
from mplug_owl.serve.web import Page


class Problem(Exception):  # noqa: N818  (as Gradio calls it, it is an error)
    """What the page shows."""

    def __init__(self, message: str, **_: object) -> None:
        super().__init__(message)


class Asked(Exception):  # noqa: N818  (it is the end of a test)
    """A question arrived at the server."""


def page(folder: Path, held: int = 2**20) -> Page:
    """A page whose server ends with what it is asked."""

    async def answer(body: bytes, owner: bytes) -> None:
        raise Asked(len(body))

    async def app(*_: object) -> None:
        pass

    guard = Guard(app, None, GuardLimits(held_bytes=held), local=True)
    server: Any = SimpleNamespace(limits=ServeLimits(), guard=guard, answer=answer)
    return Page(server, SimpleNamespace(Request=object, Error=Problem), folder, ())


def ask(one: Page, files: list[str], history: list[Mapping[str, Any]]) -> None:
    request = SimpleNamespace(request=SimpleNamespace(scope={"state": {"owner": b""}}))

    async def run() -> None:
        async for _ in one.answer({"text": "Who?", "files": files}, history, "owl", 8, 0.0, request):
            pass

    asyncio.run(run())


@pytest.fixture
def file(tmp_path: Path) -> str:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_a_file_that_is_named_a_thousand_times_is_not_read(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a request of the interface, a question of the page has 16 pictures at most; they are counted before they are read."""
    said = {"role": "user", "content": [{"type": "file", "file": {"path": file}}, {"type": "text", "text": "That?"}]}
    with pytest.raises(Asked):
        ask(page(tmp_path), [file] * 8, [said] * 8)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("a picture is read"))
    for files, history in (([file] * 17, []), ([], [said] * 17), ([], [said | {"content": said["content"] * 17}])):
        with pytest.raises(Problem, match="17 pictures in one conversation; at most 16"):
            ask(page(tmp_path), files, history)


def test_a_picture_of_another_kind_is_said_on_the_page(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.bmp")
    with pytest.raises(Problem, match="expected JPEG, PNG, WebP or GIF"):
        ask(page(tmp_path), [str(tmp_path / "a.bmp")], [])


def test_the_pages_questions_count_as_bodies_that_are_held(file: str, tmp_path: Path) -> None:
    small = page(tmp_path, held=200)
    with pytest.raises(Problem, match="too many large requests"):
        ask(small, [file], [])
    assert small.server.guard.held == 0
    fine = page(tmp_path)
    with pytest.raises(Asked):
        ask(fine, [file], [])
    assert fine.server.guard.held == 0
