"""The pages hold together: links lead somewhere, on the forge and on the site, the site builds, and no list misses anything."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import mplug_owl
from mplug_owl.data.sources import FORMATS
from mplug_owl.errors import BadSample, Interrupted, UserError, WriteError
from mplug_owl.recipes import find, names
from mplug_owl.train.recipe import RENAMED
from tests.test_architecture import MAY_ENTER

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FRONT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PICTURES = DOCS / "pictures"


def tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def links(text: str) -> Iterator[str]:
    """What a page links and shows, addresses on the web left out."""
    for token in tokens(text):
        for child in token.children or ():
            target = (
                child.attrGet("href") if child.type == "link_open" else child.attrGet("src") if child.type == "image" else None
            )
            if target is not None and not re.match(r"[a-z]+:", str(target)):
                yield str(target)


def headings(text: str) -> list[str]:
    """The words of each heading, in order."""
    found = tokens(text)
    inlines = [found[at + 1] for at, token in enumerate(found) if token.type == "heading_open"]
    return ["".join(child.content for child in inline.children or ()) for inline in inlines]


def anchor(heading: str) -> str:
    """The forge's anchor of a heading. The site's own are checked where the site is built."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def is_broken(page: Path, target: str) -> bool:
    path, _, fragment = target.partition("#")
    linked = page.parent / path if path else page
    if not linked.exists():
        return True
    return bool(fragment) and fragment not in {anchor(heading) for heading in headings(linked.read_text("utf-8"))}


@pytest.mark.parametrize("page", [*FRONT, *PAGES], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [target for target in links(page.read_text("utf-8")) if is_broken(page, target)] == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](page.md#one-two) [b](page.md#three) [c](none.md) ![d](none.png) [e](https://example.org)\n")
    assert [target for target in links(page.read_text()) if is_broken(page, target)] == ["page.md#three", "none.md", "none.png"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_of_the_site_links_inside_it(page: Path) -> None:
    """`../README.md` is there on the forge and not on the site."""
    assert [target for target in links(page.read_text("utf-8")) if target.startswith(("..", "/"))] == []


def test_every_entry_of_the_journal_is_a_heading_with_its_date_in_their_order() -> None:
    """So that the site's contents list each, and a link can lead to it."""
    text = (DOCS / "journal.md").read_text("utf-8")
    entries = headings(text)[1:]
    dates = [match[1] for entry in entries if (match := re.match(r"(\d{4}-\d\d-\d\d) · \S", entry))]
    assert len(dates) == len(entries)
    assert dates == sorted(dates)
    assert re.findall(r"^\*\*\d{4}-.*", text, re.MULTILINE) == []


def listed(nav: list) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from listed(value) if isinstance(value, list) else [value]


def test_the_site_lists_every_page_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    assert sorted(listed(nav)) == [page.name for page in PAGES]


def test_llms_txt_is_true() -> None:
    """As llmstxt.org has it: a title, a summary in a quotation, then lists of links, each page once and under its own title."""
    text = (DOCS / "llms.txt").read_text("utf-8")
    assert text.startswith(f"# {headings((ROOT / 'README.md').read_text('utf-8'))[0]}\n\n> ")
    entries = re.findall(r"^- \[(.+)\]\((.+)\): .+\.$", text, re.MULTILINE)
    assert len(entries) == text.count("\n- ")
    titles = {page.name: headings(page.read_text("utf-8"))[0] for page in PAGES}
    assert {name: title for title, name in entries} == titles
    assert len(entries) == len(titles)


def test_the_api_page_has_every_public_name() -> None:
    shown = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(name.rsplit(".", 1)[-1] for name in shown) == sorted(mplug_owl.__all__)


def inline_code(page: str) -> set[str]:
    """What a page sets as code within a line, cell by cell."""
    inlines = [token for token in tokens((DOCS / page).read_text("utf-8")) if token.type == "inline"]
    return {child.content for inline in inlines for child in inline.children or () if child.type == "code_inline"}


def test_recipes_has_every_recipe_and_every_field() -> None:
    shown = inline_code("recipes.md")
    assert sorted(names().keys() - shown) == []
    recipe = find("tiny.pretrain")
    for value in (recipe, recipe.modules, recipe.encoding, recipe.optimizer, recipe.schedule, recipe.trainable):
        assert [field.name for field in fields(value) if field.name not in shown] == [], type(value).__name__


def test_the_changelog_has_every_renamed_setting() -> None:
    rows = re.findall(r"^\| `([\w.]+)`.* \| `([\w.]+)`.* \|$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    for old, new in RENAMED.items():
        assert [row for row in rows if f"{row[0]}.".startswith(f"{old}.") and f"{row[1]}.".startswith(f"{new}.")], old


def test_what_a_run_survives_has_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "surviving.md").read_text("utf-8"), re.MULTILINE)
    assert {int(code) for code in rows} >= {error.exit_code for error in (UserError, BadSample, WriteError, Interrupted)}


def test_files_and_formats_has_every_format() -> None:
    shown = {code.partition(":")[0] for code in inline_code("files-and-formats.md") if ":" in code}
    assert shown >= FORMATS.keys()


def tree(page: Path) -> Iterator[Path]:
    """The paths of a page's tree: an indented line each, its first word a name, deeper lines inside the one above."""
    found: list[tuple[int, Path]] = []
    for line in re.findall(r"^ {4,}\S+/? {2,}.*$|^ {4,}\S+/$", page.read_text("utf-8"), re.MULTILINE):
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        inside = [path for at, path in found if at < depth]
        found = [(at, path) for at, path in found if at < depth] + [(depth, path := (inside[-1] if inside else ROOT) / name)]
        yield path


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "architecture.md"], ids=lambda page: page.name)
def test_the_tree_shows_what_is_there(page: Path) -> None:
    shown = [path for path in tree(page) if path.is_relative_to(ROOT / "src")]
    assert [path for path in shown if not path.exists()] == []
    package = ROOT / "src" / "mplug_owl"
    parts = {path for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    hidden = {package / name for name in ("__init__.py", "__main__.py", "__pycache__")}
    assert parts - hidden - set(shown) == set()


def test_the_architecture_says_who_imports_whom() -> None:
    """As tests/test_architecture.py enforces it. What every part may import has the first row, the last two are everything."""
    rows = re.findall(r"^\| ([\w, ]+) \| (.+) \|$", (DOCS / "architecture.md").read_text("utf-8"), re.MULTILINE)
    said = {part: set(may.split(", ")) for parts, may in rows for part in parts.split(", ") if part in MAY_ENTER}
    free = MAY_ENTER["page"]  # which may import nothing of its own
    for part in MAY_ENTER.keys() - free - {"__main__", "mplug_owl", "mplug_owl_cli", "experiments"}:
        assert said[part] - {"nothing of ours"} == MAY_ENTER[part] - free, part


def test_the_architecture_names_every_file() -> None:
    rooms = [room for room in (ROOT / "src" / "mplug_owl").rglob("*") if room.is_dir() and (room / "__init__.py").is_file()]
    files = {path.stem for room in rooms for path in room.glob("*.py")} - {"__init__"}
    named = {name for code in inline_code("architecture.md") for name in re.split(r"\W+", code)}
    assert sorted(files - named) == []


def test_the_readme_is_short_and_its_pictures_are_light() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 900
    for picture in PICTURES.iterdir():
        assert picture.stat().st_size < 300_000, picture.name


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of what the site is made of, to be built without touching the working tree."""
    pytest.importorskip("zensical", reason="the site is built by the extra `docs`")
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_site_builds(site: Path) -> None:
    built = build(site)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.parent.name for path in (site / "site").glob("*/index.html")}
    assert pages >= {page.stem for page in PAGES} - {"index"}
    assert (site / "site" / "llms.txt").is_file()
    api = (site / "site" / "api" / "index.html").read_text("utf-8")
    assert [name for name in mplug_owl.__all__ if f'id="mplug_owl.{name}"' not in api and f'.{name}"' not in api] == []


@pytest.mark.parametrize("line", ["[gone](gone.md)", "[gone](other.md#gone)", "::: mplug_owl.Gone", "[there](other.md#there)"])
def test_what_leads_nowhere_ends_the_build(site: Path, line: str) -> None:
    """With the site's settings, and two pages in place of all."""
    shutil.rmtree(site / "docs")
    (site / "docs").mkdir()
    (site / "docs" / "index.md").write_text(f"# First\n\n{line}\n")
    (site / "docs" / "other.md").write_text("# Other\n\n## There\n")
    settings, pages = (
        (site / "zensical.toml").read_text("utf-8"),
        'nav = [{ "First" = "index.md" }, { "Other" = "other.md" }]\n',
    )
    (site / "zensical.toml").write_text(re.sub(r"^nav = \[.*?^\]\n", pages, settings, flags=re.DOTALL | re.MULTILINE))
    assert (build(site).returncode == 0) == ("there" in line)
