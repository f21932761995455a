"""The documentation is code: every block of sh and python in README.md and docs/ runs, and so does every file in examples/.

The blocks of a page run one after the other, as somebody who reads it would type them, in a folder that holds what the pages
speak of (`house`). Trainings are cut to two steps and exams to a question; see SHORTER. A block that needs a network, a GPU or
hours has `<!-- not run: REASON -->` in front of it; its commands are still parsed, its Python compiled and its imports made.
"""

import ast
import importlib
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from typer.main import get_command

import mplug_owl_cli
from mplug_owl.model import config, connectors
from mplug_owl.model.locate import bundled
from mplug_owl.recipes import find, names
from mplug_owl.train.recipe import Recipe, override
from tests import world
from tests.golden import original
from tests.tiny import picture

ROOT = Path(__file__).parents[1]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.is_file()]
WRITTEN = [*PAGES, *(path for name in ("CHANGELOG.md", "CONTRIBUTING.md") if (path := ROOT / name).is_file())]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL = ("sh", "bash", "console")
# What is typed less of, so that a page takes seconds; a later --set of a field wins.
SHORTER = {
    "train": [f"--set={setting}" for setting in ("steps=2", "batch=2", "micro_batch=2", "workers=0", "precision=fp32")],
    "eval": ["--limit=1"],
}
# A program of somebody else's that starts ours, and where our words begin.
LAUNCHERS = ("torchrun", "accelerate")
ARGUMENTS = {"chat.py": ["owl-tiny", "photo.jpg"]}


class Block(NamedTuple):
    """A fenced block: its page, the line where it begins, its language, its text, and why it does not run if it does not."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("text")), match["language"], match["text"], match["reason"])
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in WRITTEN for block in blocks(page)]


def lines(text: str) -> list[list[str]]:
    """The commands of a shell block: continued lines joined, comments left out, words taken apart."""
    split = [shlex.split(line.removeprefix("$ "), comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [words for words in split if words]


def owl_words(words: list[str]) -> list[str] | None:
    """What the command `owl` is given by a line, started as it is or by a launcher; None for another program's."""
    if words[0] == "owl":
        return words[1:]
    if words[0] in LAUNCHERS and "mplug_owl_cli" in words:
        return words[words.index("mplug_owl_cli") + 1 :]
    return None


COMMANDS = [
    (f"{block.place} {' '.join(words)}", words)
    for block in BLOCKS
    if block.language in SHELL
    for line in lines(block.text)
    if (words := owl_words(line))
]


@pytest.fixture(autouse=True)
def connectors_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connector that a page or an example adds is gone after it."""
    monkeypatch.setattr(config, "CONNECTOR_NAMES", list(config.CONNECTOR_NAMES))
    monkeypatch.setattr(connectors, "CONNECTOR_NAMES", config.CONNECTOR_NAMES)
    monkeypatch.setattr(connectors, "CONNECTORS", dict(connectors.CONNECTORS))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that somebody has who reads: a checkout, a demo that was run, pictures, an original checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mplug_owl.data.survey.LOOKED_FOR_CUTS", 10)
    for name in ("examples", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    world.write(Path("runs/demo/data"), 4, seed=1)
    shutil.copytree(bundled("owl-tiny"), "runs/demo/instruct/model")
    pictures = Path("pictures")
    pictures.mkdir()
    for number, name in enumerate(("first.png", "second.png")):
        picture(number).save(pictures / name)
    (pictures / "captions.csv").write_text("image,caption\nfirst.png,red squares\nsecond.png,blue squares\n")
    (pictures / "questions.csv").write_text(
        "image,question,answer\nfirst.png,What is it?,Squares.\nsecond.png,What?,Squares.\n"
    )
    picture(3).save("photo.jpg")
    original.write(Path("path/to/original"))
    Path("path/to/mplug-owl").symlink_to("original")
    return tmp_path


def type_owl(words: list[str], monkeypatch: pytest.MonkeyPatch, typed: str = "/quit\n") -> None:
    """Run the command in this process; it must not fail."""
    monkeypatch.setattr(sys, "argv", ["owl", *words, *SHORTER.get(words[0] if words else "", [])])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    with pytest.raises(SystemExit) as left:
        mplug_owl_cli.main()
    assert not left.value.code, f"owl {' '.join(words)}: exit code {left.value.code}"


def run_python(file: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    runpy.run_path(str(file), run_name="__main__")


# Every block


RUNNING = [
    page for page in PAGES if any(block.reason is None and block.language in (*SHELL, "python") for block in blocks(page))
]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run(page: Path, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), space)
        elif block.language in SHELL:
            for words in lines(block.text):
                match words:
                    case ["owl", *rest]:
                        type_owl(rest, monkeypatch)
                    case ["python", "-m", module, *rest] if module.startswith("mplug_owl."):
                        monkeypatch.setattr(sys, "argv", [module, *rest])
                        monkeypatch.delitem(sys.modules, module, raising=False)  # where another test has imported it
                        runpy.run_module(module, run_name="__main__")
                    case ["python", file, *rest] if not file.startswith("-"):
                        run_python(house / file, rest, monkeypatch)
                    case _:
                        pytest.fail(f"{block.place}: only owl and python run here, not {words[0]}; give a reason to leave it")


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[place for place, _ in COMMANDS])
def test_a_command_is_one_that_there_is(place: str, words: list[str]) -> None:
    owl = get_command(mplug_owl_cli.app)
    verb, *rest = words
    if verb.startswith("-"):
        return
    assert verb in owl.commands
    if "--help" in rest:
        return
    given = owl.commands[verb].make_context(verb, rest, parent=click.Context(owl)).params
    recipe = given.get("recipe")
    if recipe and ":" not in recipe:
        assert recipe in names()
        assert isinstance(override(find(recipe), given["settings"]), Recipe)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=lambda block: block.place)
def test_a_python_block_compiles_and_its_imports_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, block.place)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):  # then it is a module itself
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_a_recipe_in_a_python_block_can_be_made() -> None:
    found = [block for block in BLOCKS if block.language == "python" and "-> Recipe:" in block.text]
    assert found
    for block in found:
        space: dict = {}
        exec(compile(block.text, block.place, "exec"), space)
        made = [thing() for thing in space.values() if getattr(thing, "__annotations__", {}).get("return") is Recipe]
        assert made
        assert all(isinstance(recipe, Recipe) for recipe in made)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_block_is_left_out_by_how_it_is_fenced(page: Path) -> None:
    """Indented, with spaces or without a language it would be neither run nor parsed."""
    marks = re.findall(r"^[ \t>]*(?:`{3,}|~{3,})", page.read_text("utf-8"), re.MULTILINE)
    assert len(marks) == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= {*SHELL, "python", "json", "text"}


def test_the_documentation_shows_every_verb() -> None:
    shown = {words[0] for _, words in COMMANDS} | {"demo"}  # `make demo`
    assert shown >= set(get_command(mplug_owl_cli.app).commands)


# Every example


# Run by tests/integrations, where the programs that they are for are installed, and by tests/experiments.
ELSEWHERE = ("inspect_owleval.py", "connector_study.py")


@pytest.mark.parametrize(
    "example",
    [path for path in sorted((ROOT / "examples").glob("*.py")) if path.name not in ELSEWHERE],
    ids=lambda path: path.name,
)
def test_an_example_runs(
    example: Path, house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_python(example, ARGUMENTS.get(example.name, []), monkeypatch)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_for_a_cluster_starts_our_command(example: Path, tmp_path: Path) -> None:
    """With the cluster's programs played by stand-ins, what arrives at torchrun is a command of ours."""
    stands = {
        "scontrol": "echo first-node",
        "srun": 'while [ "${1#-}" != "$1" ]; do echo "$1" >> given; shift; done; exec "$@"',
        "torchrun": 'printf "%s\\n" torchrun "$@" > arrived',
    }
    for name, text in stands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    told = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "nodes", "SLURM_NNODES": "4"}
    told |= {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64"}
    subprocess.run(["bash", example], check=True, cwd=tmp_path, env=told)
    arrived = (tmp_path / "arrived").read_text().splitlines()
    assert "--rdzv-endpoint=first-node:29500" in arrived
    assert "--cpus-per-task=64" in (tmp_path / "given").read_text()  # which srun does not take from sbatch
    assert "#SBATCH --cpus-per-task=64" in example.read_text()
    words = owl_words(arrived)
    assert words is not None
    test_a_command_is_one_that_there_is(example.name, words)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_a_config_for_accelerate_is_one(example: Path) -> None:
    assert load_config_from_file(str(example)).num_processes == 8
    comment = "\n".join(line.removeprefix("#") for line in example.read_text().splitlines() if line.startswith("#"))
    commands = [words for line in lines(comment) if (words := owl_words(line))]
    assert commands
    for words in commands:
        test_a_command_is_one_that_there_is(example.name, words)


def test_no_example_is_left_out() -> None:
    assert {path.suffix for path in (ROOT / "examples").iterdir()} - {".pyc"} <= {".py", ".sh", ".yaml"}


# What is named


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in WRITTEN for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert named
    assert named <= targets


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("given", "told"), [((), "constraints.txt  torch"), (("TORCH_INDEX=//cpu",), "extra-index-url //cpu torch")]
)
def test_make_takes_torch_from_the_index_that_is_named(given: tuple[str, ...], told: str) -> None:
    made = subprocess.run(["make", "-n", "-B", "setup", *given], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told in made.stdout


def test_every_file_that_is_linked_exists() -> None:
    for page in WRITTEN:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
