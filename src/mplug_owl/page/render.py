"""One HTML page in one file: its style and its pictures are inside, and it asks no network for anything."""

import base64
import io
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

# A PNG of this many colours is a fifth of the size; on a drawn picture nobody sees the difference.
COLOURS = 64


def render(template: str, **values: object) -> str:
    """The page that a template makes of these values.

    What the values hold is text, never markup. A template extends `page/page.html.jinja`, which brings the style, and has
    the filter `inline` for pictures.

    Args:
        template: A path inside the package, such as `eval/wrong.html.jinja`.
        values: What the template names.

    Raises:
        jinja2.UndefinedError: The template names something that is not among the values.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """One for all pages: a server renders a template again and again, and compiling it takes far longer."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    return environment


def inline(image: Image.Image, colours: int | None = COLOURS) -> str:
    """A picture as an address that holds it: `data:image/png;base64,...`. `colours=None` keeps every colour."""
    file = io.BytesIO()
    (image.convert("RGB").quantize(colours) if colours else image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def inline_photograph(image: Image.Image, side: int = 560) -> str:
    """A photograph as an address that holds it, at most so many pixels wide or high: a JPEG is a fifth of a PNG here."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
