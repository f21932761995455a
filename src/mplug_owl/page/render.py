"""One HTML page in one file: its style, and pictures are inside, and it asks no network for anything."""

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

# A PNG of this many colours is a fifth of the size; on a drawn picture nobody sees the difference.
COLOURS = 64


def render(template: str, **values: Any) -> str:
    """The page that a template beside the package's code makes of these values; what they hold is text, never markup."""
    room = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    room.filters["inline"] = inline
    return room.get_template(template).render(**values)


def inline(image: Image.Image, colours: int | None = COLOURS) -> str:
    """A picture as an address that holds it: `data:image/png;base64,...`."""
    file = io.BytesIO()
    (image.convert("RGB").quantize(colours) if colours else image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
