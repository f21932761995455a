"""The documentation is code: its commands parse, its Python compiles and imports, and what is marked to run runs.

A fenced block behind the comment `<!-- run -->` is executed in an empty folder; every other one is checked as far as it goes
without data and models.
"""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from typer.main import get_command

import mplug_owl_cli
from mplug_owl.recipes import find, names
from mplug_owl.train.recipe import Recipe, override

ROOT = Path(__file__).parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md") if path.is_file()]
FENCE = re.compile(r"(?P<mark><!-- run -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: where it stands, its language, its text and whether it is marked to run."""

    place: str
    language: str
    text: str
    runs: bool


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        written = page.read_text("utf-8")
        for match in FENCE.finditer(written):
            line = written.count("\n", 0, match.start("text"))
            place = f"{page.name}:{line}"
            found.append(Block(place, match["language"], match["text"], match["mark"] is not None))
    return [block for block in found if block.language in languages]


def commands() -> list[tuple[str, list[str]]]:
    """Every `owl ...` line, its continued lines joined and its comment left out."""
    found = []
    for block in blocks("sh", "bash", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["owl"]:
                found.append((f"{block.place} {' '.join(words)}", words[1:]))
    return found


def test_the_readme_shows_every_verb() -> None:
    shown = {words[0] for _, words in commands()} | {"demo"}  # `make demo`
    assert shown >= set(get_command(mplug_owl_cli.app).commands)


@pytest.mark.parametrize(("place", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_is_one_that_there_is(place: str, words: list[str]) -> None:
    owl = get_command(mplug_owl_cli.app)
    verb, *rest = words
    assert verb in owl.commands
    if "--help" in rest:
        return
    given = owl.commands[verb].make_context(verb, rest, parent=click.Context(owl)).params
    recipe = given.get("recipe")
    if recipe and ":" not in recipe:
        assert recipe in names()
        assert isinstance(override(find(recipe), given["settings"]), Recipe)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.place)
def test_a_python_block_compiles_and_its_imports_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, block.place)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_a_recipe_in_a_python_block_can_be_made() -> None:
    for block in blocks("python"):
        if "-> Recipe:" in block.text:
            space: dict = {}
            exec(compile(block.text, block.place, "exec"), space)
            made = [thing() for thing in space.values() if getattr(thing, "__annotations__", {}).get("return") is Recipe]
            assert made
            assert all(isinstance(recipe, Recipe) for recipe in made)


@pytest.mark.parametrize(
    "block", [block for block in blocks("sh", "bash", "python") if block.runs], ids=lambda block: block.place
)
def test_a_block_marked_to_run_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if block.language == "python":
        exec(compile(block.text, block.place, "exec"), {})
        return
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    done = subprocess.run(["bash", "-euc", block.text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in PAGES for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_every_file_that_is_linked_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
