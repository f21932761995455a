"""The picture of docs/rating.md: a drawn scene with made-up answers, as the page shows it on a screen and on a phone.

    python docs/rating_picture.py docs/pictures/rating.png

It needs chromium on the path, and the extras `serve` and `browser`.
"""

import argparse
import shutil
import tempfile
import threading
from pathlib import Path
from queue import SimpleQueue

from PIL import Image
from playwright.sync_api import sync_playwright

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.rating.raters import Raters
from mplug_owl.eval.rating.server import serve
from mplug_owl.eval.task import Condition, Question
from mplug_owl.scenes import exam

SIZES = ((1280, 820), (390, 820))
GAP, WIDTH = 24, 1500


def made_up() -> list[Answer]:
    """A dialogue about a scene that has two things and two writings."""
    scene = exam(2, "seen", seed=3)[10].scene
    turns = (("What shape is the red thing?", ""), ("What else is in the picture?", ""))
    question = Question("1", "seeing", "dialogue", turns, lambda: scene.draw(672), image="scene")
    answers = (
        "It is a circle.",
        "There is a purple triangle on the right. Above it is the number 18, and below the word HARP.",
    )
    condition = Condition("made-up", "picture", "", "")
    fillers = [Question(str(number), "seeing", "filler", turns, question.picture, image="scene") for number in range(2, 24)]
    return [Answer(one, condition, answers, "nobody") for one in (question, *fillers)]


def shots(address: str, folder: Path) -> list[Image.Image]:
    """The page of an item in every size, seven answers after the first."""
    found = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in SIZES:
            page = chromium.new_page(viewport={"width": width, "height": height}, has_touch=width < 500)
            page.goto(address)
            page.fill("#name", "Anna")
            page.keyboard.press("Enter")
            for _ in range(7):
                with page.expect_navigation():
                    page.click("button[value=B]")
            page.mouse.move(0, 0)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=folder / f"{width}.png")
            found.append(Image.open(folder / f"{width}.png").convert("RGB"))
        chromium.close()
    return found


def sheet(pages: list[Image.Image]) -> Image.Image:
    """The pages beside one another, on the grey of a desk."""
    joined = Image.new(
        "RGB", (sum(page.width for page in pages) + GAP * (len(pages) + 1), pages[0].height + 2 * GAP), "#8d867b"
    )
    left = GAP
    for page in pages:
        joined.paste(page, (left, GAP))
        left += page.width + GAP
    return joined.resize((WIDTH, WIDTH * joined.height // joined.width), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    target = parser.parse_args().picture
    with tempfile.TemporaryDirectory() as folder:
        raters, begun = Raters("made-up", made_up(), Path(folder, "grades.jsonl")), SimpleQueue()
        threading.Thread(target=serve, args=(raters, "127.0.0.1", 0, None, begun.put), daemon=True).start()
        made = sheet(shots(begun.get(), Path(folder)))
    made.quantize(method=Image.Quantize.FASTOCTREE).save(target, optimize=True)
    print(target, target.stat().st_size, "bytes")
