"""A picture as a `data:` URL, which goes into a request."""

import base64
import io
from pathlib import Path

from PIL import Image

from mplug_owl.conversation import ImageSource
from mplug_owl.model.images import expand_home, open_image, picture_bytes, shortened

JPEG = b"\xff\xd8\xff"
# The formats that every server reads, by Pillow's name. MPO is a camera's JPEG with a second picture after it.
SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png"}
# The modes that PNG has.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def picture_url(source: ImageSource) -> str:
    """A picture as `data:image/...;base64,...`.

    The bytes of a JPEG or PNG file go as they are. Anything else becomes a PNG: other formats, pictures in memory, more than
    8 bits a value. A photograph that is turned by its EXIF tag is turned for good and stays a JPEG: servers differ there. One
    in memory that Pillow opened from a JPEG is packed as that file was. PNGs of OwlEval's photographs are five times as large
    and cost 80 times the time; their pixels differ from these by 0.1 of 255 levels in the mean.

    Raises:
        BadSample: The picture cannot be opened.

    Example:
        >>> from PIL import Image
        >>> picture_url(Image.new("RGB", (2, 2)))[:32]
        'data:image/png;base64,iVBORw0KGg'
    """
    raw = _file_bytes(source)
    name = shortened(str(source)) if isinstance(source, (str, Path)) else ""
    image = open_image(source if raw is None else raw, name)
    if raw is not None and image.format in SENT_AS_THEY_ARE:  # a picture that was changed has no format
        return _url(SENT_AS_THEY_ARE[image.format], raw)
    packed = io.BytesIO()
    if raw is None and image.format == "JPEG" and image.mode in ("L", "RGB"):
        image.save(packed, "JPEG", quality="keep")
        return _url("image/jpeg", packed.getvalue())
    if raw is not None and raw.startswith(JPEG):
        image.save(packed, "JPEG", quality=95, subsampling=0)
        return _url("image/jpeg", packed.getvalue())
    (image if image.mode in PNG_MODES else image.convert("RGB")).save(packed, "PNG")
    return _url("image/png", packed.getvalue())


def _file_bytes(source: ImageSource) -> bytes | None:
    """The bytes of a picture's file; None for a picture in memory, and where there is no file to read."""
    if isinstance(source, Image.Image):
        return None
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and (raw := picture_bytes(source)) is not None:
        return raw
    try:
        path = expand_home(source)
        return path.read_bytes() if path.is_file() else None
    except (OSError, ValueError):  # open_image says what is wrong with it
        return None


def _url(kind: str, raw: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode('ascii')}"
