"""Pictures of every kind come in right, or not at all with a clear error."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mplug_owl.model.images import FORMATS, MAX_PIXELS, MplugOwlImageProcessor, open_image
from tests.tiny import picture

RED, GREEN = (255, 0, 0), (0, 255, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mean_colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image.convert("RGB")).mean((0, 1)).round().astype(int).tolist())


# What can't be a picture


def huge_png() -> bytes:
    """A few bytes whose header promises 100 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "words": (lambda: b"this is a letter, not a picture", "not a picture in a known format"),
    "0 bytes": (lambda: b"", r"the file is empty \(0 bytes\)"),
    "truncated png": (lambda: encoded(picture())[:-60], "damaged or cut short"),
    "truncated jpeg": (lambda: encoded(picture(), "JPEG")[:300], "damaged or cut short"),
    "100 megapixels": (huge_png, "10000 x 10000 is more than the 64,000,000 pixels allowed"),
    "floating point": (lambda: encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point pixels have no fixed white"),
    "a format of its own": (lambda: encoded(picture(), "SGI"), "not a picture in a known format"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    file = tmp_path / "holiday.png"
    file.write_bytes(make())
    with pytest.raises(ValueError, match=rf"holiday\.png: .*{message}"):
        open_image(file)
    with pytest.raises(ValueError, match=message):
        open_image(make())


def test_what_is_no_file_is_said() -> None:
    with pytest.raises(ValueError, match=r"gone\.png: no such file"):
        open_image("gone.png")
    with pytest.raises(ValueError, match="not a file"):
        open_image(Path(__file__).parent)
    with pytest.raises(ValueError, match="read from files, not fetched"):
        open_image("https://example.com/owl.png")
    with pytest.raises(ValueError, match="a int; expected a path"):
        open_image(7)
    with pytest.raises(ValueError, match=r"array \(2, 2\) of float64"):
        open_image(np.zeros((2, 2)))


def test_an_opened_picture_may_not_be_too_large_either() -> None:
    with pytest.raises(ValueError, match="pixels allowed"):
        open_image(Image.new("1", (MAX_PIXELS, 2)))


# What is a picture in spite of appearances


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    film = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    assert mean_colour(open_image(film)) == RED


def test_cmyk_becomes_the_colours_it_prints() -> None:
    jpeg = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert mean_colour(open_image(jpeg)) == pytest.approx(RED, abs=3)


def test_16_bit_grey_is_scaled_not_cut_off() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert mean_colour(open_image(encoded(grey))) == (127, 127, 127)


def test_palettes_and_alpha_show_their_colours() -> None:
    colours = Image.new("RGB", (8, 8), RED)
    assert mean_colour(open_image(encoded(colours.quantize(4)))) == RED
    assert mean_colour(open_image(encoded(colours.convert("RGBA")))) == RED
    assert mean_colour(open_image(encoded(Image.new("1", (8, 8), 1)))) == (255, 255, 255)


def test_a_photograph_is_turned_upright() -> None:
    photo = Image.new("RGB", (20, 10), RED)
    photo.paste(GREEN, (0, 0, 10, 10))  # green on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn a quarter clockwise
    upright = open_image(encoded(photo, "JPEG", exif=exif, quality=100, subsampling=0))
    assert upright.size == (10, 20)
    assert mean_colour(upright.crop((0, 0, 10, 8))) == pytest.approx(GREEN, abs=6)  # now on top


def test_every_way_in_gives_the_same_picture(tmp_path: Path) -> None:
    image = picture()
    file = tmp_path / "p.png"
    image.save(file)
    for source in (file, str(file), file.read_bytes(), image, np.asarray(image), torch.from_numpy(np.array(image))):
        assert np.array_equal(np.asarray(open_image(source)), np.asarray(image))


def test_the_usual_formats_are_known(tmp_path: Path) -> None:
    for kind in (*FORMATS, "MPO"):  # MPO: a JPEG with more pictures behind it
        assert open_image(encoded(picture(), kind)).size == (40, 30)


# Pixel values


def test_a_picture_becomes_a_square_without_cropping() -> None:
    halves = Image.new("RGB", (100, 10), RED)
    halves.paste(GREEN, (50, 0, 100, 10))
    square = MplugOwlImageProcessor(size=8).square(halves)
    assert square.shape == (8, 8, 3)
    assert tuple(square[4, 0]) == RED
    assert tuple(square[4, -1]) == GREEN


def test_pixel_values_are_clips() -> None:
    processor = MplugOwlImageProcessor(size=4)
    values = processor(Image.new("RGB", (4, 4), RED))["pixel_values"]
    assert values.shape == (1, 3, 4, 4)
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]  # OpenAI's CLIP
    assert values[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_size_is_the_side_of_a_square_however_it_is_written() -> None:
    assert [MplugOwlImageProcessor(size=size).size for size in (56, {"shortest_edge": 56}, {"height": 56, "width": 56})] == [
        56
    ] * 3
    assert MplugOwlImageProcessor(size={}).size == 224  # the original's, where its file says nothing


def test_a_tall_picture_is_the_same_numbers_under_pillow_12_and_13() -> None:
    """Pillow 13 shrinks very tall pictures vertically first. So do we, under both; ../parity has the original's numbers."""
    tall = picture(3, width=40, height=400)
    by_hand = tall.resize((40, 16), Image.Resampling.BICUBIC).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(MplugOwlImageProcessor(size=16).square(tall), np.asarray(by_hand))
