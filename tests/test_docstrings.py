"""The examples in docstrings are true: all of them run but those that need minutes, files or a trained model's words."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import mplug_owl

SRC = Path(mplug_owl.__file__).parents[1]
EXAMPLES = sorted(path for path in SRC.rglob("*.py") if "    >>> " in path.read_text("utf-8"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(SRC)))
def test_an_example_is_true(path: Path) -> None:
    parts = path.relative_to(SRC).with_suffix("").parts
    assert not doctest.testmod(import_module(".".join(part for part in parts if part != "__init__"))).failed


def test_there_are_examples() -> None:
    assert {"owl.py", "grade.py", "answer.py"} <= {path.name for path in EXAMPLES}
