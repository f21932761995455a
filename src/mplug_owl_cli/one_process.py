"""What transformers imports for several processes, compilers and detecting objects is left out where one process answers.

Of the time until `owl chat` answers a third was such imports (benchmarks/start.py). transformers asks once whether torch has
distributed and whether scipy is there, and keeps the answers. torch's compiler has a stand-in for the little that is asked of
it; whoever asks for more gets the real one.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

COMPILER, PART = "torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op"


@contextmanager
def one_process() -> Iterator[None]:
    """A block that imports transformers, loads a model and answers, all in this process.

    Nothing happens where torch's compiler or transformers' models are there already.
    """
    if {*STAND_INS, "transformers.modeling_utils"} & sys.modules.keys():
        yield
        return
    _answer_beforehand()
    _list_models_once()
    stand_ins, finder = [StandIn(name) for name in STAND_INS], _Found()
    sys.modules |= {module.__name__: module for module in stand_ins}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        _remove(stand_ins)
        sys.meta_path.remove(finder)


def _answer_beforehand() -> None:
    """Have transformers find no distributed torch and no scipy."""
    import torch

    import_utils: Any = import_module("transformers.utils.import_utils")
    there = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    scipy = sys.modules.get("scipy")
    sys.modules["scipy"] = None  # type: ignore[assignment]  # Python's own sign of a module that is not there
    try:
        for name in ("is_torch_distributed_available", "is_scipy_available"):
            asked: Any = getattr(import_utils, name, None)
            if hasattr(asked, "cache_clear"):
                asked.cache_clear()
                asked()
    finally:
        torch.distributed.is_available = there
        del sys.modules["scipy"]
        if scipy is not None:
            sys.modules["scipy"] = scipy


def _list_models_once() -> None:
    """transformers reads which names its models' files have twice, once for itself and once for its `models`."""
    import_utils: Any = import_module("transformers.utils.import_utils")
    if (read := getattr(import_utils, "define_import_structure", None)) is None:
        return

    def known(path: str | Path, prefix: str | None = None) -> Any:
        if prefix is not None or Path(path) != folder / "__init__.py":
            return read(path, prefix)
        import_utils.define_import_structure = read
        found = read(folder, prefix="models")  # which it keeps
        return {
            needed: {name.removeprefix("models."): names for name, names in of.items() if name.startswith("models.")}
            for needed, of in found.items()
        }

    folder = Path(import_utils.__file__).parents[1] / "models"
    import_utils.define_import_structure = known


class StandIn(ModuleType):
    """A module until somebody needs more of it than its stand-in has."""

    def __getattr__(self, name: str) -> object:
        if name in STAND_INS[self.__name__]:
            return STAND_INS[self.__name__][name]
        if name.startswith("__") and (self.__name__, name) != (COMPILER, "__path__"):
            raise AttributeError(name)
        _remove([module for module in sys.modules.values() if isinstance(module, StandIn)])
        return getattr(import_module(self.__name__), name)


class _Found(MetaPathFinder, Loader):
    """Who imports a part of the compiler has its stand-in replaced first; then the part is there, and is not loaded again."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.startswith(COMPILER + ".") and name in sys.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It was executed."""


def _remove(stand_ins: Sequence[ModuleType]) -> None:
    for module in stand_ins:
        if sys.modules.get(module.__name__) is module:
            del sys.modules[module.__name__]


def _marked(function: object = None, *args: object, **options: object) -> object:
    """A decorator that changes nothing, with options or without; or what is called for a tensor."""
    return (lambda function: function) if function is None else function


def _mask_mode() -> object:
    """What masks by vmap and flex attention need."""
    _remove([module for module in sys.modules.values() if isinstance(module, StandIn)])
    return import_module(PART).TransformGetItemToIndex()


# What is asked of a compiler where nothing is compiled: to mark functions and tensors.
STAND_INS: dict[str, dict[str, object]] = {
    COMPILER: dict.fromkeys(
        ("disable", "allow_in_graph", "disallow_in_graph", "assume_constant_result", "mark_static_address"), _marked
    ),
    PART: {"TransformGetItemToIndex": _mask_mode},
}
