"""Pictures as data URLs: files as they are, everything else turned into what every server reads."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mplug_owl.chat.picture_url import picture_url
from mplug_owl.errors import BadSample
from mplug_owl.model.images import open_image
from tests.tiny import picture


def packed(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(url: str) -> tuple[str, bytes, Image.Image]:
    head, _, text = url.partition(",")
    raw = base64.b64decode(text, validate=True)
    return head, raw, open_image(raw)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_bytes_of_a_file_go_as_they_are(kind: str, tmp_path: Path) -> None:
    raw = packed(picture(1), kind)
    file = tmp_path / "a picture"
    file.write_bytes(raw)
    base64_text = base64.b64encode(raw).decode()
    for source in (raw, file, str(file), f"data:image/{kind.lower()};base64,{base64_text}", base64_text):
        head, sent, _ = opened(picture_url(source))
        assert (head, sent) == (f"data:image/{kind.lower()};base64", raw)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_a_picture_in_memory_becomes_a_png_of_the_same_pixels(mode: str) -> None:
    image = picture(2).convert(mode)
    head, _, sent = opened(picture_url(image))
    assert head == "data:image/png;base64"
    assert sent.convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("quality", [60, 95])
def test_a_photograph_in_memory_is_packed_as_its_file_was(quality: int) -> None:
    raw = packed(picture(6, 90, 70).resize((90, 70), Image.Resampling.BICUBIC), "JPEG", quality=quality)
    head, sent, image = opened(picture_url(open_image(raw)))
    assert head == "data:image/jpeg;base64"
    assert len(sent) < 1.2 * len(raw)
    difference = np.asarray(image, int) - np.asarray(open_image(raw), int)
    assert np.abs(difference).mean() < 3  # of saturated squares; photographs 0.1


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_become_a_png(kind: str) -> None:
    raw = packed(picture(3), kind, **({"lossless": True} if kind == "WEBP" else {}))
    head, sent, image = opened(picture_url(raw))
    assert head == "data:image/png;base64"
    assert sent.startswith(b"\x89PNG")
    assert image.convert("RGB").tobytes() == open_image(raw).convert("RGB").tobytes()


def test_a_turned_photograph_is_turned_for_good() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = packed(picture(4, 60, 40), "JPEG", exif=exif, quality=95)
    head, sent, image = opened(picture_url(raw))
    assert head == "data:image/jpeg;base64"
    assert sent != raw
    assert image.size == (40, 60)
    assert Image.open(io.BytesIO(sent)).getexif().get(0x0112, 1) == 1
    difference = np.asarray(image, int) - np.asarray(open_image(raw), int)
    assert np.abs(difference).mean() < 2  # a JPEG of a JPEG


def test_sixteen_bits_become_eight() -> None:
    raw = packed(Image.fromarray(np.full((4, 4), 257 * 99, np.uint16)), "PNG")
    _, sent, image = opened(picture_url(raw))
    assert sent != raw
    assert np.asarray(image).tolist() == [[99] * 4] * 4


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.png", "nowhere.png: no such file"),
        (Path("nowhere.png"), "nowhere.png: no such file"),
        (b"no picture", "not a picture"),
        (b"", "empty"),
        ("https://example.org/a.png", "not fetched"),
        ("/dev/zero", "not a file"),
        (packed(picture(5), "PNG")[:60], "damaged"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(source: object, words: str) -> None:
    with pytest.raises(BadSample, match=words):
        picture_url(source)
