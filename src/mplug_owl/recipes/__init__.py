"""Recipes by name: `paper.pretrain`, an import path `my.module:run`, or a file `./mine.py:run`."""

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from mplug_owl.errors import UserError
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.recipes import paper, paradigms, smol, tiny, tiny_paradigms
from mplug_owl.train.recipe import Recipe

BOOKS: tuple[ModuleType, ...] = (tiny, tiny_paradigms, smol, paper, paradigms)


def names() -> dict[str, str]:
    """Every recipe of the project and the first line of what it says about itself."""
    found = {}
    for book in BOOKS:
        for name, function in vars(book).items():
            if not name.startswith("_") and _is_recipe(function) and function.__module__ == book.__name__:
                short = book.__name__.rsplit(".", 1)[-1]
                found[f"{short}.{name}"] = str(inspect.getdoc(function)).splitlines()[0]
    return found


def stages(name: str) -> list[str]:
    """The recipes that a name stands for: itself, or all stages that begin with it, as paradigms.llava or tiny do."""
    known = names()
    if name in known:
        return [name]
    return [stage for stage in known if stage.startswith(f"{name}_" if "." in name else f"{name}.")] or [name]


def find(name: str) -> Recipe:
    """The recipe of this name. Raises UserError that lists the valid ones, or says what is wrong in a file of recipes."""
    if name in names():
        book, function = name.split(".")
        return getattr(importlib.import_module(f"mplug_owl.recipes.{book}"), function)()
    if len(several := stages(name)) > 1:
        raise UserError(f"{name} has several stages; name one of {', '.join(several)}")
    if ":" not in name and not name.endswith(".py"):
        meant = "".join(f", perhaps {near}" for near in get_close_matches(name, names(), 1))
        raise UserError(f"no recipe {name!r}{meant}; there are {', '.join(names())}, my.module:run and ./mine.py:run")
    made = made_by(name, "run")
    if not isinstance(made, Recipe):
        raise UserError(f"{name} returns a {type(made).__name__}; expected a Recipe")
    check_sizes(name, [made])
    return made


def made_by(name: str, usual: str) -> object:
    """What the function called `my.module:function` or `./mine.py:function` returns. Raises UserError where it fails.

    `usual` is what such a function is called in messages.
    """
    where, colon, function = name.rpartition(":")
    if not colon:
        raise UserError(f"{name}: names a file and no function of it; expected {name}:FUNCTION, such as {name}:{usual}")
    if not where:
        raise UserError(f"{name}: names no file before its colon; expected my.module{name} or ./mine.py{name}")
    with _errors_of(where):
        making = getattr(_module(where), function, None)
        if not callable(making):
            raise UserError(f"{where} has no function {function!r}")
        return making()


def check_sizes(name: str, recipes: Iterable[Recipe]) -> None:
    """Make the config of each recipe in a user's file once. Raises UserError that names the line where that fails."""
    with _errors_of(name.rpartition(":")[0]):
        for config in {recipe.modules.config: None for recipe in recipes}:
            if not isinstance(made := config(), MplugOwlConfig):
                raise UserError(f"modules.config makes a {type(made).__name__}; expected an MplugOwlConfig")


def _is_recipe(function: object) -> bool:
    return callable(function) and getattr(function, "__annotations__", {}).get("return") is Recipe


@contextlib.contextmanager
def _errors_of(where: str) -> Iterator[None]:
    """Whatever a user's module raises becomes a UserError that names the file and the line in it."""
    try:
        yield
    except SyntaxError as error:
        location = f"{error.filename or where}, line {error.lineno}" if error.lineno else where
        raise UserError(f"{location}: {type(error).__name__}: {error.msg}") from error
    except Exception as error:
        name = where.removesuffix(".py").replace("/", ".").rpartition(".")[2]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).stem == name]
        if not frames and isinstance(error, UserError):
            raise  # it is about finding the module, and one of ours
        location = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else where
        words = " ".join(str(error).split())  # one line, also of what the hub says in several
        problem = words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"
        raise UserError(f"{location}: {problem}") from error


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        if where.startswith(".") or "/" in where:
            raise UserError(f"{where}: not a module's name, and not a file that ends in .py; expected my.module or ./mine.py")
        if "" not in sys.path:
            sys.path.insert(0, "")  # the folder one works in, as for python -m; the command owl starts without it
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{where}.".startswith(f"{error.name}."):
                raise  # the module is there, and what it imports is not
            raise UserError(f"no module {where!r} to import ({error})") from None
    path = Path(where)
    if not path.is_file():
        raise UserError(f"{where}: no such file; expected a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
