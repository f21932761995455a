"""Pictures opened with care, and resized as the original does it.

Without torch and transformers: a process that opens strangers' pictures imports nothing else.
"""

import base64
import binascii
import importlib
import io
import re
import stat
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, features

from mplug_owl.errors import BadSample

# What a photograph or a drawing comes as (JPEG includes MPO). Pillow's rarer decoders are not reachable from here.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
# Above the 61 million of the largest full-frame sensors, and far above what 224 x 224 keeps; a header alone decides.
MAX_PIXELS = 64_000_000
# A name in an error is cut after so many characters: it may be a whole file in base64.
SHOWN = 200
# The smallest picture there is, a GIF of one pixel, has 26 bytes: so many characters of base64.
SMALLEST = 35

PNG = b"\x89PNG\r\n\x1a\n"
# How files of FORMATS begin.
_KNOWN = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP|.{4}ftypavi[fs]|BM.{4}\0{4}|P[1-6]\s+[\d#]",
    re.DOTALL,
)
# ISO files whose brand says HEIC, or says pictures without saying which.
_HEIF = re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where a picture may say how it was held.
_ORIENTATION_HOLDERS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# Python's filters for warnings belong to the whole process, and a server opens pictures in many threads.
_FILTERS = threading.Lock()
_DAMAGED = "the picture is damaged or cut short"


def open_image(source: Any, name: str = "") -> Image.Image:
    """Open a picture.

    Turned upright by its EXIF tag, the first frame of an animation, 16-bit grey scaled to 8. Other modes stay as they are:
    the original resizes palette and alpha pictures before it converts them.

    Args:
        source: A path, a `data:` URL or other base64 text, bytes, a PIL image, or an array [height, width, 3] of uint8.
        name: What an error calls the picture; its path by default.

    Raises:
        BadSample: It cannot be opened. The message names the picture and says why.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, name or "picture")
    if _is_tensor(source):  # on any device; NumPy knows no bf16
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    if isinstance(source, np.ndarray):
        return Image.fromarray(_as_uint8(source, name or "array"))
    if isinstance(source, str) and (raw := picture_bytes(source, name)) is not None:
        source = raw
    if isinstance(source, (bytes, bytearray)):
        return _decode(io.BytesIO(bytes(source)), name or f"picture of {len(source)} bytes")
    name = name or shortened(str(source))
    if not isinstance(source, (str, Path)):
        raise BadSample(f"{name}: a {type(source).__name__}; expected a path, bytes, a PIL image or an array")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise BadSample(f"{name}: pictures are read from files, not fetched; download it and give its path")
    return _from_file(expand_home(source), name)


def picture_bytes(text: str, name: str = "") -> bytes | None:
    """The bytes of a picture that is written in base64, as a `data:` URL or alone; None where the text is something else.

    Raises:
        BadSample: A `data:` URL that holds no picture in base64.
    """
    name = name or shortened(text)
    is_url = text[:5].lower() == "data:"
    head, _, payload = text.partition(",") if is_url else ("", "", text)
    if is_url and not head.lower().endswith(";base64"):
        raise BadSample(f"{name}: a data: URL that is not in base64; expected data:image/...;base64,...")
    packed = re.sub(r"\s+", "", unquote(payload) if is_url else payload).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        # Its first bytes decide, so that a path costs nothing.
        begins = base64.b64decode(packed[:44] + "=" * (-len(packed[:44]) % 4), validate=True)
        if is_url or (len(packed) >= SMALLEST and (_KNOWN.match(begins) or _HEIF.match(begins))):
            return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        if is_url:
            raise BadSample(f"{name}: damaged base64; expected data:image/...;base64,...") from None
    return None


def expand_home(path: str | Path) -> Path:
    """A path whose leading `~/` is the user's folder. Other names that begin with `~` are names."""
    if not str(path).startswith("~/"):
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:  # this user has no folder
        return Path(path)


def shortened(text: str) -> str:
    """Text for an error: only the beginning of what may be a whole file, and nothing that a terminal cannot print."""
    shown = text if len(text) <= SHOWN else f"{text[:60]}... ({len(text):,} characters)"
    return re.sub("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", shown)


def _from_pil(image: Image.Image, name: str) -> Image.Image:
    try:
        return _upright(image, name)
    except BadSample:
        raise
    except Exception as error:  # it may be a file that Pillow has not read yet
        raise BadSample(f"{name}: {_DAMAGED}") from error


def _from_file(path: Path, name: str) -> Image.Image:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadSample(f"{name}: not a file")
        with path.open("rb") as file:
            return _decode(file, name)
    except BadSample:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a ValueError: characters that no file's name has
        raise BadSample(f"{name}: no such file") from None
    except OSError as error:
        raise BadSample(f"{name}: cannot be read ({error.strerror})") from None


def _decode(file: BinaryIO, name: str) -> Image.Image:
    head = file.read(64)
    if not head:
        raise BadSample(f"{name}: the file is empty (0 bytes)")
    try:
        file.seek(0)
        image = _open(file, head, name)
        return _upright(image, name)
    except BadSample:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError and more
        if head.startswith(PNG):
            file.seek(0)
            whole = file.read()
            if (pixels := _critical_chunks(whole)) != whole:
                return _decode(io.BytesIO(pixels), name)
        raise BadSample(f"{name}: {_fault(head, error)}") from error


def _open(file: BinaryIO, head: bytes, name: str) -> Image.Image:
    """A picture whose header is read."""
    with _quiet():
        try:
            return Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            if not _HEIF.match(head):
                raise
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise BadSample(f"{name}: a HEIC picture; pip install pillow-heif to read it") from None
        file.seek(0)
        return Image.open(file, formats=("HEIF",))


def _upright(image: Image.Image, name: str) -> Image.Image:
    """The picture decoded, turned as it was held, with 8 bits a value."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadSample(f"{name}: {width} x {height} is more than the {MAX_PIXELS:,} pixels allowed; make it smaller")
    if not width * height:
        raise BadSample(f"{name}: {width} x {height} pixels; there is nothing to see")
    if image.format == "TIFF" and _is_raw_ycbcr(image):
        raise BadSample(f"{name}: a TIFF of YCbCr colours without compression, which Pillow cannot read; convert it to PNG")
    with _quiet() if image.format == "TIFF" else nullcontext():  # Pillow reads a TIFF file's EXIF while it loads
        image.load()
    if (turn := _TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
        for holder in _ORIENTATION_HOLDERS:
            image.info.pop(holder, None)
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BadSample(f"{name}: floating-point pixels have no fixed white; convert it to 8 bits")
    return image


def _is_raw_ycbcr(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})  # gone from a copy of the picture
    return (tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION), tags.get(TiffImagePlugin.COMPRESSION)) == (6, 1)


def _orientation(image: Image.Image) -> int:
    """How the camera was held, as EXIF counts it; 1, upright, where that cannot be read."""
    try:
        with _quiet():
            value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF comes from thousands of programs, and no picture is worth less for it
        return 1
    return value if isinstance(value, int) else 1


def _critical_chunks(png: bytes) -> bytes:
    """A PNG file of the chunks that its pixels need, and its EXIF.

    Pillow refuses a picture for what stands beside its pixels: a colour profile or a text that unpacks to more than a
    megabyte, a wrong checksum of either. None of that is shown.
    """
    kept, start = [PNG], len(PNG)
    while start + 12 <= len(png):
        (size,) = struct.unpack_from(">I", png, start)
        kind, end = png[start + 4 : start + 8], start + 12 + size
        whole = png[end - 4 : end] == struct.pack(">I", zlib.crc32(png[start + 4 : end - 4]))
        # Small letters first: chunks that may be left out.
        if kind[:1].isupper() or (kind == b"eXIf" and whole):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _fault(head: bytes, error: Exception) -> str:
    """What is wrong with a file that cannot be decoded, by its beginning."""
    if isinstance(error, Image.DecompressionBombError):
        return f"its header claims more than the {MAX_PIXELS:,} pixels allowed"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the picture; run git lfs pull"
    if head[4:8] == b"ftyp" and not _HEIF.match(head) and not features.check("avif"):
        return "an AVIF picture, which this Pillow cannot read; pip install --upgrade pillow"
    if _KNOWN.match(head) or _HEIF.match(head):
        return _DAMAGED
    return f"not a picture in a known format ({', '.join(FORMATS)})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: that EXIF is odd, or that a picture is large, where our own limit is stricter."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_tensor(source: Any) -> bool:
    """Whether this is one of torch's; where torch is not imported, nothing is."""
    return "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor)


def _as_uint8(array: np.ndarray, name: str) -> np.ndarray:
    shaped = array.ndim in (2, 3) and array.size and (array.ndim == 2 or array.shape[-1] in (3, 4))
    if array.dtype != np.uint8 or not shaped:
        raise BadSample(f"{name}: array {array.shape} of {array.dtype}; expected [height, width, 3] of uint8")
    return array


def to_square(image: Image.Image, side: int, resample: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """One picture, or what is in a box of it, as [S, S, 3] of uint8. Resized before it becomes RGB: the original's order.

    A tall picture shrinks vertically first. Pillow 13 does so by this very rule and Pillow 12 never; they differ by up
    to 12 of 255 levels, so the order is ours and the same picture gives the same numbers under both.
    """
    left, top, right, bottom = box or (0, 0, *image.size)
    width, height = right - left, bottom - top
    if height > side and height - side > 2 * (width - side):
        if image.mode in ("RGBA", "LA"):  # as Pillow: colours weighted by their alpha while pixels mix
            premultiplied = image.convert(image.mode[:-1] + "a").resize((width, side), resample, box)
            image = premultiplied.resize((side, side), resample).convert(image.mode)
        else:
            image = image.resize((width, side), resample, box)
        box = None  # what is left is in it
    square = image.resize((side, side), resample, box)
    square.info.pop("transparency", None)  # RGB has none, and Pillow would warn of it
    return np.asarray(square.convert("RGB"))
