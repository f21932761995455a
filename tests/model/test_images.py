"""Pictures of every kind come in right, or not at all with a clear error."""

import base64
import contextlib
import io
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mplug_owl.errors import BadSample
from mplug_owl.model.images import (
    FORMATS,
    MAX_PIXELS,
    MplugOwlImageProcessor,
    expand_home,
    flat_images,
    open_image,
    picture_bytes,
)
from tests.tiny import picture

RED, GREEN = (255, 0, 0), (0, 255, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mean_colour(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.asarray(image.convert("RGB")).mean((0, 1)).round().astype(int).tolist())


# What can't be a picture


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png() -> bytes:
    """A few bytes whose header promises 100 megapixels."""
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
    "a header cut short": (lambda: encoded(picture(), "JPEG")[:30], "damaged or cut short"),
    "a git-lfs pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "a git-lfs pointer, not the picture",
    ),
    "no pixels": (lambda: b"P6 0 4 255\n", "damaged or cut short|nothing to see"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(60), "pip install pillow-heif|damaged or cut short"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    file = tmp_path / "holiday.png"
    file.write_bytes(make())
    with pytest.raises(BadSample, match=rf"holiday\.png: .*{message}"):
        open_image(file)
    with pytest.raises(BadSample, match=message):
        open_image(make())


def test_what_is_no_file_is_said() -> None:
    with pytest.raises(BadSample, match=r"gone\.png: no such file"):
        open_image("gone.png")
    with pytest.raises(BadSample, match="not a file"):
        open_image(Path(__file__).parent)
    with pytest.raises(BadSample, match="read from files, not fetched"):
        open_image("https://example.com/owl.png")
    with pytest.raises(BadSample, match="a int; expected a path"):
        open_image(7)
    with pytest.raises(BadSample, match=r"array \(2, 2\) of float64"):
        open_image(np.zeros((2, 2)))


def test_an_opened_picture_may_not_be_too_large_either() -> None:
    with pytest.raises(BadSample, match="pixels allowed"):
        open_image(Image.new("1", (MAX_PIXELS, 2)))


# What no name of a file can do


@pytest.mark.parametrize(
    "name", ["~nobody/owl.png", "~", "owl\0.png", "o" * 300 + ".png", "half \ud800.png", "", "owl.png/owl.png"]
)
def test_a_name_of_no_file_is_one_bad_sample(name: str) -> None:
    with pytest.raises(BadSample):
        open_image(name)


def test_a_long_name_is_shortened_in_the_error() -> None:
    with pytest.raises(BadSample, match=r"^o{60}\.\.\. \(5,000 characters\): ") as error:
        open_image("o" * 5_000)
    assert len(str(error.value)) < 200


def test_a_picture_without_read_permission_is_one_bad_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "owl.png"
    file.write_bytes(encoded(picture()))

    def refused(*how: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(BadSample, match=r"owl\.png: cannot be read \(Permission denied\)"):
        open_image(file)


def test_only_the_home_of_oneself_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "owl.png").write_bytes(encoded(picture()))
    assert open_image("~/owl.png").size == (40, 30)
    assert [expand_home(name) for name in ("~root/a", "~a", "a/~/b")] == [Path("~root/a"), Path("~a"), Path("a/~/b")]


# Pictures written in base64


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_base64_is_the_picture(kind: str) -> None:
    raw = encoded(picture(), kind)
    for text in (base64.b64encode(raw), base64.encodebytes(raw), base64.urlsafe_b64encode(raw).rstrip(b"=")):
        assert picture_bytes(text.decode()) == raw
        assert picture_bytes(f"data:image/any;base64,{text.decode()}") == raw
    assert np.array_equal(np.asarray(open_image(text.decode())), np.asarray(open_image(raw)))


@pytest.mark.parametrize(
    "name", ["owl.png", "/9j/4AAQSkZJRgABAQ.jpg", "iVBORw0KGgo", "", "a" * 500, "R0lGODlh/é", "=" * 9, "data"]
)
def test_a_name_is_not_base64(name: str) -> None:
    assert picture_bytes(name) is None


@pytest.mark.parametrize("url", ["data:,owl", "data:image/svg+xml,%3Csvg/%3E", "data:image/png;base64,*", "data:"])
def test_a_url_that_holds_no_base64_is_one_bad_sample(url: str) -> None:
    with pytest.raises(BadSample, match=r"expected data:image/\.\.\.;base64,"):
        picture_bytes(url)


def test_base64_is_never_printed() -> None:
    with pytest.raises(BadSample) as error:
        open_image("data:image/png;base64," + base64.b64encode(bytes(30_000)).decode())
    assert len(str(error.value)) < 200


# What stands beside the pixels


def exif(kind: int, value: bytes, count: int = 1, tag: int = 0x0112) -> bytes:
    """EXIF of one field: its tag, how its type is numbered, and four bytes of value."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", tag, kind, count) + value + bytes(4)


SHORT, TURNED = 3, struct.pack("<I", 6)
ODD_EXIF: dict[str, bytes] = {
    "cut": exif(SHORT, TURNED)[:-9],
    "no field": exif(SHORT, TURNED)[:14],
    "empty": b"Exif\0\0",
    "garbage": b"Exif\0\0" + b"owl" * 20,
    "no such way up": exif(SHORT, struct.pack("<I", 9)),
    "none at all": exif(SHORT, bytes(4)),
    "as text": exif(2, b"6\0\0\0", 2),
    "points outside": exif(SHORT, struct.pack("<I", 60_000), 9),
    "a fraction": exif(5, struct.pack("<I", 60_000)),
    **{f"of type {kind}": exif(kind, TURNED) for kind in (0, 10, 11, 12, 14, 129, 65_535)},
}


@pytest.mark.parametrize("case", ODD_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_leaves_a_picture_as_it_is(case: str, kind: str) -> None:
    expected, with_exif = (open_image(encoded(picture(), kind, exif=held)) for held in (b"", ODD_EXIF[case]))
    assert np.array_equal(np.asarray(with_exif), np.asarray(expected))


def test_a_way_up_is_read_beside_fields_that_cannot_be_written() -> None:
    for kind in range(20):  # of the software field, a text by right
        field = struct.pack("<HHI", 0x0131, kind, 40) + struct.pack("<I", 60_000)
        held = exif(SHORT, TURNED)
        held = held[:14] + b"\x02\0" + held[16:28] + field + bytes(4)
        assert open_image(encoded(picture(), "JPEG", exif=held)).size == (30, 40), kind


def test_a_picture_is_turned_once() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        held = Image.Exif()
        held[0x0112] = 6
        upright = open_image(encoded(picture(), kind, exif=held))
        assert upright.size == open_image(upright).size == (30, 40), kind


def with_chunk(*chunks: bytes, after: bool = False) -> bytes:
    """A picture's PNG file with chunks in it in front of its pixels, or after them."""
    plain = encoded(picture())
    at = plain.index(b"IEND") - 4 if after else plain.index(b"IDAT") - 4
    return plain[:at] + b"".join(chunks) + plain[at:]


HUGE = zlib.compress(bytes(2 * PngImagePlugin.MAX_TEXT_CHUNK))
ODD_CHUNKS = {
    "a huge profile": chunk(b"iCCP", b"icc\0\0" + HUGE),
    "a profile of no known packing": chunk(b"iCCP", b"icc\0\7" + HUGE),
    "a profile without a name": chunk(b"iCCP", b""),
    "a huge text": chunk(b"zTXt", b"words\0\0" + HUGE),
    "a huge text of another kind": chunk(b"iTXt", b"words\0\1\0\0\0" + HUGE),
    "a wrong checksum": chunk(b"pHYs", bytes(9))[:-1] + b"?",
    "a wrong length": chunk(b"pHYs", b""),
    "gamma of no length": chunk(b"gAMA", b"") + chunk(b"cHRM", b"") + chunk(b"sRGB", b""),
    "a chunk of nobody's": chunk(b"owLs", b"hoo"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("case", ODD_CHUNKS)
def test_what_stands_beside_the_pixels_of_a_png_spoils_nothing(case: str, after: bool) -> None:
    assert np.array_equal(np.asarray(open_image(with_chunk(ODD_CHUNKS[case], after=after))), np.asarray(picture()))


def test_a_spoilt_png_is_still_turned_upright() -> None:
    file = with_chunk(ODD_CHUNKS["a huge text"], chunk(b"eXIf", exif(SHORT, TURNED)[6:]))
    assert open_image(file).size == (30, 40)
    with pytest.raises(BadSample, match="damaged or cut short"):
        open_image(with_chunk(ODD_CHUNKS["a huge text"])[:-60])


def test_pillows_warnings_are_kept_from_users_in_any_thread() -> None:
    """The tests turn warnings into errors, so one that came through would end the thread in an exception."""
    odd = encoded(picture(), "JPEG", exif=exif(2, struct.pack("<I", 60_000), 90))
    see_through = encoded(picture().quantize(8), transparency=bytes(8))
    before, opened = list(warnings.filters), list[bool]()

    def look() -> None:
        for file in (odd, see_through) * 5:
            opened.append(MplugOwlImageProcessor(size=8).square(open_image(file)).shape == (8, 8, 3))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [True] * 40
    assert list(warnings.filters) == before


def test_heic_needs_a_package_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    with pytest.raises(BadSample, match=r"^phone\.heic: a HEIC picture; pip install pillow-heif to read it$"):
        open_image(b"\0\0\0\x18ftypheic" + bytes(60), "phone.heic")


# Damage of any kind is a picture or a bad sample, and nothing else


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
@given(data=st.data())
def test_any_damage_gives_a_picture_or_a_bad_sample(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(picture(width=12, height=8), kind))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))  # sizes in headers too
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(BadSample):
        assert MplugOwlImageProcessor(size=4).square(open_image(damaged)).shape == (4, 4, 3)


@given(st.text() | st.binary() | st.integers() | st.none() | st.lists(st.integers()))
def test_whatever_is_given_for_a_picture_is_one_or_a_bad_sample(source: object) -> None:
    with pytest.raises(BadSample):
        open_image(source)


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


def test_arrays_may_be_grey_or_have_an_alpha_channel() -> None:
    rows = np.arange(4 * 6, dtype=np.uint8)
    assert open_image(rows.reshape(4, 6)).mode == "L"
    assert open_image(rows.repeat(3).reshape(4, 6, 3)).mode == "RGB"
    assert open_image(torch.from_numpy(rows.repeat(4).reshape(4, 6, 4))).mode == "RGBA"
    for shape in ((24,), (4, 3, 2), (2, 2, 2, 3)):
        with pytest.raises(BadSample, match=r"array \(.* of uint8; expected \[height, width, 3\] of uint8"):
            open_image(rows.reshape(shape))
    with pytest.raises(BadSample, match=r"grey: array .* of float32"):
        open_image(rows.reshape(4, 6).astype(np.float32), "grey")


def test_pictures_are_taken_from_any_nest_in_reading_order() -> None:
    first, second, third = (np.full((4, 4, 3), shade, np.uint8) for shade in (10, 20, 30))
    processor = MplugOwlImageProcessor(size=4)
    whole = processor([first, second, third])["pixel_values"]
    assert whole.shape == (3, 3, 4, 4)
    assert torch.equal(processor([[first, second], [], [third]])["pixel_values"], whole)
    assert torch.equal(processor(np.stack([first, second, third]))["pixel_values"], whole)
    assert torch.equal(processor(first)["pixel_values"], whole[:1])
    assert processor([])["pixel_values"].shape == (0, 3, 4, 4)
    assert flat_images(None) == []
    assert processor.fetch_images("a.png") == "a.png"


def test_every_level_has_its_own_value() -> None:
    """From black to white, by each channel's mean and deviation."""
    processor = MplugOwlImageProcessor(size=16, image_mean=[0.5, 0.25, 0.0], image_std=[0.5, 0.25, 2.0])
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    values = processor.normalise([levels])[0].flatten(1)
    shades = torch.arange(256) / 255
    expected = torch.stack([(shades - 0.5) / 0.5, (shades - 0.25) / 0.25, shades / 2])
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


def test_a_tall_picture_is_the_same_numbers_under_pillow_12_and_13() -> None:
    """Pillow 13 shrinks very tall pictures vertically first. So do we, under both; ../parity has the original's numbers."""
    tall = picture(3, width=40, height=400)
    by_hand = tall.resize((40, 16), Image.Resampling.BICUBIC).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(MplugOwlImageProcessor(size=16).square(tall), np.asarray(by_hand))


# The pictures of ../shared/cases

UNKNOWN = r"not a picture in a known format \(JPEG, "
REFUSED = {
    "81mp.png": "9000 x 9000 is more than the 64,000,000 pixels allowed",
    **dict.fromkeys(("a.ico", "a.jp2", "a.tga", "drawing.svg", "leading.jpg", "page.jpg"), UNKNOWN),
    **dict.fromkeys(("cut.jpg", "cut_by_two.jpg"), "damaged or cut short"),
    "float.tif": "floating-point pixels have no fixed white",
    "phone.heic": "a HEIC picture; pip install pillow-heif|damaged or cut short",
    "ycbcr.tif": "YCbCr colours without compression",
    "zero.jpg": "the file is empty",
}


def test_every_picture_of_the_cases_is_right_or_refused_in_one_sentence(shared: Path) -> None:
    read = {}
    for file in sorted((shared / "cases" / "pics").iterdir()):
        if file.name in REFUSED:
            with pytest.raises(BadSample, match=rf"{file.name}: .*({REFUSED[file.name]})") as error:
                open_image(file)
            assert "\n" not in str(error.value)
        else:
            read[file.name] = open_image(file)
            assert MplugOwlImageProcessor(size=8).square(read[file.name]).shape == (8, 8, 3)
    assert len(read) > 60
    same = {
        name: np.asarray(read[name])
        for name in ("a.bmp", "iccp_huge.png", "ztxt_huge.png", "phys_bad_crc.png", "text_latin.png")
    }
    assert all(np.array_equal(pixels, same["a.bmp"]) for pixels in same.values())
    held = {name: image.size for name, image in read.items() if name.startswith("exif_")}
    upright = ("cut", "cut_more", "empty", "garbage", "orient0", "orient9", "orient_ascii")
    assert held == {name: (64, 48) if name[5:-4] in upright else (48, 64) for name in held}


def test_a_tensor_is_an_array_wherever_and_however_it_is_kept() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(4, 5, 3)
    assert open_image(red).getpixel((0, 0)) == (255, 0, 0)
    for other in (red.bfloat16(), red.float().requires_grad_()):
        with pytest.raises(BadSample, match=r"array \(4, 5, 3\) of float32; expected \[height, width, 3\] of uint8"):
            open_image(other)
