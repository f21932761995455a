"""Checking a source: every conversation that cannot be read, every picture that cannot be opened, each in one sentence."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from mplug_owl.conversation import ImageSource
from mplug_owl.data.sources.source import Source, in_turn
from mplug_owl.errors import BadSample
from mplug_owl.model.images import FORMATS, MAX_PIXELS, open_image

# About a minute's worth of photographs on one core.
DECODED = 5_000


def check(source: Source, decode: bool | None = None, indices: Iterable[int] | None = None) -> list[str]:
    """Read every conversation, or those at `indices`, and the header of every picture; say all that is wrong, one line each.

    `decode` reads each picture to its end as well, some milliseconds a piece, and so finds the ones cut short. When it
    isn't said, sources of up to `DECODED` conversations are read so.
    """
    decode = len(source) <= DECODED if decode is None else decode
    problems: list[str] = []
    for index in in_turn(source, range(len(source)) if indices is None else list(indices)):
        try:
            conversation = source[index]
        except BadSample as error:
            problems.append(str(error))
            continue
        for picture in conversation.pictures:
            # A picture out of a larger file has no name but the conversation's.
            named = isinstance(picture.source, (str, Path))
            look = open_image if decode else picture_size
            try:
                look(picture.source, str(picture.source) if named else conversation.name)
            except BadSample as error:
                problems.append(f"{conversation.name}: {error}" if named else str(error))
    return problems


def picture_size(source: ImageSource, name: str = "") -> tuple[int, int]:
    """Width and height by the picture's header alone. Raises BadSample where there is none to read."""
    if isinstance(source, Image.Image):
        return source.size
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
            width, height = picture.size
    except Exception:  # open_image knows the words for what is wrong
        width, height = open_image(source, name).size
    if width * height > MAX_PIXELS:
        raise BadSample(
            f"{name or 'picture'}: {width} x {height} is more than the {MAX_PIXELS:,} pixels allowed; make it smaller"
        )
    return width, height
