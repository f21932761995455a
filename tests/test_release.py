"""What is released is what a stranger gets: built, its papers in order, installed into an empty environment and used."""

import ast
import email
import itertools
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
QUESTION = "How many things are there?"
# Imported and not declared: parts of fsspec[http] and of pydantic, and what imports our entry point with its own packages.
BROUGHT = {"aiohttp", "pydantic-core", "lmms-eval", "tqdm"}


def run(*command: object, cwd: Path) -> str:
    """What a command prints; its errors are shown where it fails."""
    # Without the working tree on Python's path, and deaf to the tests' own warnings filter.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_changelog_begins_with_this_version() -> None:
    """With its date, or `unreleased`."""
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first
    assert re.fullmatch(rf"{re.escape(PROJECT['version'])} · (unreleased|\d{{4}}-\d\d-\d\d)", first[1])


def test_each_version_has_one_section_and_the_newest_is_first() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+) ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert numbers == sorted(set(numbers), reverse=True)


def test_the_sdist_is_given_every_paper_of_the_root() -> None:
    """What setuptools takes by itself need not be named."""
    named = (ROOT / "MANIFEST.in").read_text("utf-8").split()
    papers = {path.name for pattern in ("*.md", "*.toml", "*.txt", "Makefile") for path in ROOT.glob(pattern)}
    assert papers - {*named, "README.md", "pyproject.toml"} == set()


def test_every_package_that_is_imported_is_declared() -> None:
    requirements = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(line).name) for line in requirements} | {"mplug-owl", "mplug-owl-cli"}
    imported = set()
    for file in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            imported |= {name.split(".")[0] for name in names} - sys.stdlib_module_names
    packages = {canonicalize_name({"PIL": "pillow"}.get(name, name)) for name in imported}
    assert packages - declared == BROUGHT


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist: that of `make release`, else one built for this test."""
    if "OWL_DIST" in os.environ:
        return ROOT / os.environ["OWL_DIST"]
    pytest.importorskip("build", reason="distributions are built by the package `build`, in the extra `dev`")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob(f"mplug_owl-{PROJECT['version']}-*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> Path:
    (path,) = distributions.glob(f"mplug_owl-{PROJECT['version']}.tar.gz")
    return path


@pytest.mark.slow
def test_the_metadata_are_valid_and_say_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        written = archive.read(name)
    metadata = Metadata.from_email(written, validate=True)
    assert metadata.name == PROJECT["name"]
    assert str(metadata.version) == PROJECT["version"]
    assert metadata.summary == PROJECT["description"]
    assert metadata.license_expression == PROJECT["license"]
    assert str(metadata.requires_python) == PROJECT["requires-python"]
    readme = email.message_from_bytes(written).get_payload(decode=True).decode("utf-8")
    assert readme.strip() == (ROOT / "README.md").read_text("utf-8").strip()


@pytest.mark.slow
def test_the_wheel_has_the_package_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    }
    assert packed == there


@pytest.mark.slow
def test_the_sdist_brings_its_tests_and_its_pages(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile", ROOT / "constraints.txt"]
    wanted += [path for folder in ("docs", "examples", "tests") for path in (ROOT / folder).rglob("*.*")]
    missing = {
        path.relative_to(ROOT).as_posix() for path in wanted if path.is_file() and "__pycache__" not in path.parts
    } - packed
    assert missing == set()


@pytest.mark.slow
def test_the_wheel_is_installed_into_an_empty_environment_and_used(wheel: Path, tmp_path: Path) -> None:
    """Installed as the README says, asked as a user asks, and it answers what the working tree answers."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    binaries = environment / ("Scripts" if os.name == "nt" else "bin")
    install = (binaries / "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt")
    run(*install, "torch", cwd=tmp_path)  # first, and so the CPU's: see the Makefile
    run(*install, wheel, cwd=tmp_path)
    run(binaries / "pip", "check", cwd=tmp_path)

    owl = binaries / "owl"
    assert PROJECT["version"] in run(owl, "--version", cwd=tmp_path)
    assert "chat" in run(owl, "--help", cwd=tmp_path)
    assert "tiny.pretrain" in run(owl, "recipes", cwd=tmp_path)
    assert "Usage" in run(binaries / "python", "-m", "mplug_owl", "--help", cwd=tmp_path)

    draw = "from pathlib import Path; from mplug_owl.scenes import write; write(Path('world'), 1, seed=7)"
    run(binaries / "python", "-c", draw, cwd=tmp_path)
    (picture,) = (tmp_path / "world").rglob("*.png")
    asked = ("chat", "owl-tiny", "--image", picture, QUESTION)
    answer = run(owl, *asked, cwd=tmp_path)
    assert answer.strip()
    assert answer == run(sys.executable, "-m", "mplug_owl_cli", *asked, cwd=SRC)
