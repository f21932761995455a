"""The rooms of the house, which may enter which, and how large they are: read from the sources, nothing is run."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = sorted(path for path in SRC.rglob("*.py") if ".egg-info" not in str(path))
# A room and those it may enter; every room may enter itself.
MAY_ENTER: dict[str, set[str]] = {
    "errors": set(),
    "writing": {"errors"},
    "registration": {"model"},  # by name, when transformers' Auto classes are there
    "conversation": set(),
    "scenes": {"conversation"},
    "model": {"conversation"},
    "chat": {"conversation", "model"},
    "terminal": {"chat", "conversation", "model", "scenes"},
    "data": {"conversation", "model", "scenes"},
    "train": {"conversation", "data", "model"},
    "recipes": {"data", "model", "scenes", "train"},
    "page": set(),
    "eval": {"chat", "conversation", "data", "model", "page", "scenes"},
    "serve": {"chat", "conversation", "model", "page", "scenes"},
    "integrations": {"chat", "conversation", "eval", "model", "scenes"},
    "experiments": {"chat", "conversation", "data", "eval", "model", "page", "recipes", "scenes", "terminal", "train"},
    "mplug_owl_cli": {"chat", "data", "eval", "experiments", "integrations", "model", "recipes", "serve", "terminal", "train"},
    "__main__": {"mplug_owl_cli"},
    "mplug_owl": {
        "chat",
        "conversation",
        "data",
        "errors",
        "eval",
        "model",
        "recipes",
        "registration",
        "train",
    },  # lazily, its public names
}
for _room in MAY_ENTER.keys() - {"errors", "writing", "__main__"}:
    MAY_ENTER[_room] |= {"errors", "writing"}


def room(module: str) -> str:
    """`mplug_owl.train.loop` is in the room `train`."""
    first, _, rest = module.partition(".")
    return (rest.partition(".")[0] or first) if first == "mplug_owl" else first


def module_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("mplug_owl", "mplug_owl_cli"))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_rooms_enter_only_the_rooms_they_may(path: Path) -> None:
    own = room(module_of(path))
    assert own in MAY_ENTER, f"{own} is a new room: say here and in docs/architecture.md which others it may enter"
    entered = {room(name) for name in imports(path)} - {own}
    assert entered <= MAY_ENTER[own], f"{module_of(path)} enters {entered - MAY_ENTER[own]}"


def test_the_front_door_the_demo_and_doors_for_others_are_entered_by_nobody() -> None:
    entered = {
        room(name): path
        for path in FILES
        for name in imports(path)
        if room(module_of(path)) not in ("experiments", "integrations", "mplug_owl_cli", "serve", "__main__")
    }
    assert not {"experiments", "integrations", "mplug_owl_cli", "serve"} & entered.keys()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_file_is_a_small_room_that_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 360
    said = ast.get_docstring(ast.parse(text))
    assert said
    assert said.splitlines()[0].endswith((".", ":"))
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc", "base", "core")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_function_is_at_most_forty_lines_or_says_why(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 40:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            text = "\n".join(lines[first - 2 : node.end_lineno])  # and a comment above it
            assert re.search("over 40", text, re.IGNORECASE), (
                f"{node.name}, line {node.lineno}: {node.end_lineno - node.lineno + 1} lines"
            )


def test_at_most_ten_lines_are_left_out_of_type_checking() -> None:
    """Each with its reason on the same line or the one before."""
    found = []
    for path in FILES:
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if "# type: ignore" in line:
                found.append(f"{module_of(path)}, line {number + 1}")
                assert line.count("#") > 1 or lines[number - 1].lstrip().startswith("#"), f"{found[-1]} has no reason"
    assert len(found) <= 10


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    """No file, no network, none of the packages that a model does not need."""
    program = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was used")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
import mplug_owl
mplug_owl.MplugOwlForConditionalGeneration, mplug_owl.MplugOwlProcessor, mplug_owl.load

print(sorted(name for name in ("gradio", "matplotlib", "peft", "typer") if name in sys.modules))
"""
    environment = {"HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
