"""The recipes there are, read from their source: importing them would import torch, which takes seconds."""

import ast
from importlib.util import find_spec
from pathlib import Path

BOOKS = ("tiny", "tiny_paradigms", "smol", "paper", "paradigms")


def names() -> dict[str, str]:
    """Every recipe of the project and the first line of its docstring, as `mplug_owl.recipes.names` gives them."""
    spec = find_spec("mplug_owl")  # finds the package without importing it
    if spec is None or spec.origin is None:
        raise ImportError("the package mplug_owl is not installed beside its command; pip install mplug-owl")
    folder = Path(spec.origin).with_name("recipes")
    return {name: line for book in BOOKS for name, line in _book(folder / f"{book}.py").items()}


def _book(path: Path) -> dict[str, str]:
    functions = (node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef))
    return {
        f"{path.stem}.{function.name}": (ast.get_docstring(function) or "").splitlines()[0]
        for function in functions
        if not function.name.startswith("_") and isinstance(function.returns, ast.Name) and function.returns.id == "Recipe"
    }
