"""The look of every page: values are text and never markup, pictures are inside, and all pages have one style."""

import base64
import io
from pathlib import Path

import jinja2
import pytest
from PIL import Image

import mplug_owl
from mplug_owl.page.render import inline, render
from tests.html import Page
from tests.tiny import picture

PACKAGE = Path(mplug_owl.__file__).parent
TEMPLATES = sorted(path for path in PACKAGE.rglob("*.html.jinja") if path.parent.name != "page")


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))


def test_values_are_text() -> None:
    page = render("page/page.html.jinja", title="</title><script>alert(1)</script>")
    assert "<script" not in page
    assert "</title><script>alert(1)</script>" in Page(page).words
    assert "default-src 'none'" in page  # nor would a browser run one


def test_a_value_that_lacks_is_a_mistake() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        render("page/page.html.jinja")


def test_a_picture_stays_itself_or_gets_few_colours() -> None:
    shown = picture(3, 64, 48)
    assert decoded(inline(shown, colours=None)).convert("RGB").tobytes() == shown.convert("RGB").tobytes()
    few = decoded(inline(Image.radial_gradient("L").convert("RGB"))).convert("RGB")
    assert few.size == (256, 256)
    assert len(few.getcolors(2**16)) <= 64


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_page_has_the_one_style(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith('{% extends "page/page.html.jinja" %}')
    assert "<style" not in text
    assert "://" not in text


def test_there_are_pages() -> None:
    assert {path.name for path in TEMPLATES} >= {"story.html.jinja", "wrong.html.jinja"}
