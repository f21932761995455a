"""transformers' Auto classes know the model, its config and its processor, from the moment that they are there.

To import what is registered takes seconds. So it waits until transformers' own Auto classes are imported, whoever does it:
that import ends with ours. A program that never asks them for a model does not pay.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# What every Auto class imports first, and the modules of ours that register themselves.
AUTO_CLASSES = "transformers.models.auto.configuration_auto"
REGISTERED = ("mplug_owl.model.owl", "mplug_owl.model.processor")


def register() -> None:
    """Register now where the Auto classes are imported already, else when they will be. Again changes nothing."""
    if AUTO_CLASSES in sys.modules:
        _import_ours()
    elif not any(isinstance(finder, WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, WhenImported())


class WhenImported(MetaPathFinder):
    """Watches imports of transformers and of this package, finds none itself, and leaves once ours are registered.

    Ours come after the outermost of these imports: within it, modules that ours need may be half done.
    """

    def __init__(self) -> None:
        self.running: list[str] = []  # modules whose code runs now, the outermost first
        self.searched: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As the other finders have it, with a loader that tells when the module is done."""
        if name.partition(".")[0] not in ("transformers", "mplug_owl") or name in self.searched:
            return None
        self.searched.add(name)
        try:
            found = next((spec for finder in sys.meta_path if (spec := _find(finder, name, path, target))), None)
        finally:
            self.searched.discard(name)
        if found is not None and found.loader is not None:
            found.loader = _Told(found.loader, self)
        return found

    def done(self) -> None:
        """A module's code has run; if none of them runs any more and the Auto classes are there, ours are imported."""
        self.running.pop()
        if not self.running and AUTO_CLASSES in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _import_ours()


class _Told(Loader):
    """A module's own loader, which tells the watch when the module's code begins and ends."""

    def __init__(self, loader: Loader, watch: WhenImported) -> None:
        self.loader, self.watch = loader, watch

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # what others ask of a loader: its path, its source

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self.loader
        self.watch.running.append(module.__name__)
        try:
            self.loader.exec_module(module)
        except BaseException:
            self.watch.running.pop()
            raise
        self.watch.done()


def _find(finder: object, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    find = getattr(finder, "find_spec", None)  # what is older than Python 3.4 has none
    return None if find is None else find(name, path, target)


def _import_ours() -> None:
    for name in REGISTERED:
        import_module(name)
