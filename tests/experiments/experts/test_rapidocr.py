"""RapidOCR itself: it reads what is drawn, and OwlEval's receipt where the pictures are here."""

from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from mplug_owl.experiments.experts.reading import RapidReader
from mplug_owl.scenes import scenes

pytestmark = pytest.mark.slow
RECEIPT = Path(__file__).parents[4] / "shared" / "owleval" / "cases" / "7.jpg"


@pytest.fixture(scope="module")
def reader() -> RapidReader:
    pytest.importorskip("rapidocr_onnxruntime", reason="RapidOCR belongs to the extra `experts`")
    return RapidReader()


def test_it_reads_lines_in_their_order(reader: RapidReader) -> None:
    picture = Image.new("RGB", (480, 200), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(40)
    pen.text((20, 120), "CLOSED", fill="black", font=font)
    pen.text((20, 20), "OPEN 10 TO 7", fill="black", font=font)
    words = reader.look(picture, "").words.replace(" ", "")
    assert words == "OPEN10TO7\nCLOSED"
    assert reader.look(Image.new("RGB", (90, 60), "white"), "").words == ""


def test_it_reads_the_drawn_world(reader: RapidReader) -> None:
    shown = list(scenes(8, seed=3, split="words"))
    assert sum(scene.writings[0].text in reader.look(scene.draw(), "").words.upper() for scene in shown) >= 7


@pytest.mark.skipif(not RECEIPT.is_file(), reason="OwlEval's pictures are not here")
def test_it_reads_a_receipt(reader: RapidReader) -> None:
    assert "$43.83" in reader.look(Image.open(RECEIPT), "").words
