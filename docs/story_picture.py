"""The README's picture: the demo's page, its two halves side by side, as a browser shows it.

    python docs/story_picture.py runs/demo/story.html docs/pictures/story.png

It needs chromium on the path.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1000, 4600
RIGHT = "What it can do"  # the heading that the right half begins with
SIDE = 1500
BROWSER = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}")
ASK = """<script>
const heading = [...document.querySelectorAll("h2")].find(one => one.textContent.trim() === "RIGHT")
document.title = Math.round(heading.getBoundingClientRect().top)
</script>"""


def browse(page: Path, *options: str) -> str:
    """What the browser prints of a page."""
    return subprocess.run([*BROWSER, *options, page.as_uri()], check=True, capture_output=True, text=True).stdout


def halves(story: Path) -> Image.Image:
    """The page cut above its second half, which stands beside the first."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "page.html"), Path(folder, "page.png")
        # The page forbids scripts, and this one asks where its heading is.
        allowed = re.sub(r"<meta http-equiv=.Content-Security-Policy.*?>", "", story.read_text("utf-8"))
        page.write_text(allowed + ASK.replace("RIGHT", RIGHT), "utf-8")
        title = re.search(r"<title>(\d+)</title>", browse(page, "--dump-dom"))
        assert title, f"{story} has no heading {RIGHT!r}"
        browse(page, f"--screenshot={shot}")
        whole = Image.open(shot).convert("RGB")
    height = int(title[1]) - 40
    sheet = Image.new("RGB", (2 * WIDTH, height), whole.getpixel((2, 2)))
    sheet.paste(whole.crop((0, 0, WIDTH, height)), (0, 0))
    sheet.paste(whole.crop((0, height, WIDTH, 2 * height)), (WIDTH, 0))
    return sheet.resize((SIDE, SIDE * height // (2 * WIDTH)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("story", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    # The octree keeps the few colours of small things, which the median cut gives away to the noise behind them.
    halves(arguments.story.resolve()).quantize(method=Image.Quantize.FASTOCTREE).save(arguments.picture, optimize=True)
    print(arguments.picture, arguments.picture.stat().st_size, "bytes")
