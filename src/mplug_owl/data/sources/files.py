"""Files near and far: names with patterns in them, whole or by stretches of bytes, on this machine or through fsspec."""

import hashlib
import importlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

from rich.console import Console

from mplug_owl.data.sources import read_ahead
from mplug_owl.data.sources.chunks import CHUNK
from mplug_owl.data.sources.store import asked, cache_folder, entity_tag, file_system, is_remote
from mplug_owl.errors import UserError
from mplug_owl.model.images import expand_home
from mplug_owl.writing import replacing

# Asking a store about thousands of files, one after the other, would take an hour.
AT_ONCE = 64
# `{0..9999999999}` is a slip of the hand.
MOST_FILES = 1_000_000
# After a path or an address: read the whole files and leave out the broken and missing ones.
SKIP_BROKEN = "#skip-broken"


@dataclass(frozen=True)
class File:
    """One file as it was found: a path, or an address that fsspec knows. `version` changes when what it holds does."""

    address: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last part of its address, for people."""
        return short_name(self.address)

    @property
    def key(self) -> str:
        """A name for what is remembered about exactly this file."""
        return hashlib.sha256(f"{self.address} {self.size} {self.version}".encode()).hexdigest()[:32]

    def open(self) -> BinaryIO:
        """The whole of it, for reading here and there. Raises UserError where a store does not give it."""
        if not is_remote(self.address):
            return Path(self.address).open("rb")
        system, path = file_system(self.address)
        opened: BinaryIO = asked(self.address, lambda: system.open(path, "rb"))
        return opened

    def stream(self) -> BinaryIO:
        """The whole of it, for reading from start to end. What comes from a store stays in the chunk cache."""
        if not is_remote(self.address):
            return Path(self.address).open("rb")
        return cast(BinaryIO, io.BufferedReader(read_ahead.Stream(self), CHUNK))

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`. No handle stays open, so any process may call it, forked ones too.

        Raises:
            UserError: The file is gone, or its store does not answer: no single record is to blame.
        """
        if is_remote(self.address):
            return read_ahead.read(self, start, end)
        try:
            with Path(self.address).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            raise UserError(f"{self.address}: the file is gone since it was opened") from None


def find(pattern: str, ending: str, faults: list[str] | None = None) -> list[File]:
    """The files of a path or an address; `{00000..00012}`, `{a,b}` and `*` stand for several, a folder for all of its `ending`.

    Args:
        pattern: A path, an address, or a pattern of either.
        ending: The ending of the files that a folder stands for.
        faults: Where missing and empty files are to be written down, one sentence each, and left out.

    Raises:
        UserError: Files are missing or empty, and there is no list of faults.
    """
    whole = str(expand_home(pattern)) if not is_remote(pattern) else pattern
    names = [whole] if not is_remote(whole) and exists(Path(whole)) else list(_spelled_out(whole))
    addresses = [address for name in names for address in _matching(name, ending)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(_described, addresses))
    files, wrong = [one for one in found if isinstance(one, File)], [one for one in found if isinstance(one, str)]
    if wrong and faults is None:
        missing = sum(one.endswith("no such file") for one in wrong)
        others = f", nor {missing - 1:,} more of {len(addresses):,}" if missing > 1 else ""
        raise UserError(f"{wrong[0]}{others}")
    if not files:
        raise UserError(wrong[0])
    if faults is not None:
        faults += wrong
    return files


def skip_broken(pattern: str) -> tuple[str, list[str] | None]:
    """A pattern without `#skip-broken`, and a list for the faults of files where it was there."""
    return (pattern.removesuffix(SKIP_BROKEN), []) if pattern.endswith(SKIP_BROKEN) else (pattern, None)


def small_file(address: str) -> bytes | None:
    """All of a file that stands beside others; None where there is none to be had."""
    try:
        if not is_remote(address):
            return Path(address).read_bytes()
        system, path = file_system(address)
        raw: bytes = asked(address, lambda: system.cat_file(path))
        return raw
    except (OSError, UserError):
        return None


def is_pattern(address: str) -> bool:
    """Whether this may stand for several files."""
    return has_magic(address) or re.search(_BRACES, address) is not None


def short_name(address: str) -> str:
    """The last part of a path or an address, without what follows a question mark."""
    return re.split("[?#]", address)[0].rpartition("/")[2] if is_remote(address) else Path(address).name


@cache
def say_once(note: str) -> None:
    """Tell the user of what was left out; the same words once, by the first process of each machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        Console(stderr=True, soft_wrap=True).print(note, style="dim", markup=False, highlight=False)


def needed(module: str, what: str) -> ModuleType:
    """An optional dependency. Raises UserError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f"{what} needs {package}, which is not installed; pip install 'mplug-owl[data]'") from None


_BRACES = r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}"


def _spelled_out(name: str) -> Iterator[str]:
    """`{00000..00012}` and `{a,b}` as a shell reads them."""
    match = re.search(_BRACES, name)
    if match is None:
        yield name
        return
    inside, head, tail = match[1], name[: match.start()], name[match.end() :]
    if "," in inside:
        options = inside.split(",")
    else:
        first, last = inside.split("..")
        if len(first + last) > 18 or abs(int(last) - int(first)) >= MOST_FILES:
            raise UserError(f"{name}: more than {MOST_FILES:,} files")
        step = 1 if int(first) <= int(last) else -1
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        options = [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    for option in options:
        yield from _spelled_out(head + option + tail)


def _matching(name: str, ending: str) -> list[str]:
    if is_remote(name):
        return _remote_matching(name, ending)
    folder = Path(name)
    if exists(folder) and folder.is_dir():
        return _in_folder(folder, ending)
    if not has_magic(name) or exists(folder):
        return [name]
    return _some(sorted(glob(name, recursive=True)), name)  # noqa: PTH207  a pattern may be absolute


def _remote_matching(name: str, ending: str) -> list[str]:
    if not has_magic(name) and not name.endswith("/"):
        return [name]
    pattern = name if has_magic(name) else f"{name}*{ending}"
    before, chain, store = pattern.rpartition("::")  # simplecache::s3://..., the store is the last of them
    system, path = file_system(store)
    found = asked(name, lambda: sorted(system.glob(path)))
    return _some([before + chain + system.unstrip_protocol(one) for one in found], pattern)


def _some(addresses: list[str], pattern: str) -> list[str]:
    if not addresses:
        raise UserError(f"{pattern}: no such file; nothing matches the pattern")
    return addresses


def _in_folder(folder: Path, ending: str) -> list[str]:
    """The files of a folder, or else of the folders in it, as in a repository. Raises UserError for several splits."""
    found = _seen(folder, folder.glob(f"*{ending}")) or _seen(folder, folder.rglob(f"*{ending}"))
    if not found:
        raise UserError(f"{folder}: a folder; expected a file, or files that end in {ending} in it")
    splits = {match[1]: path for path in found if (match := _SPLIT.search(path.relative_to(folder).as_posix()))}
    if len(splits) > 1:
        split, path = max(splits.items(), key=lambda one: one[0] == "train")
        within = next((above for above in path.parents if above.name == split and above != folder), None)
        name = within or path.with_name(f"{path.name.partition(split)[0]}{split}*{ending}")
        raise UserError(f"{folder}: has the splits {', '.join(sorted(splits))}; name one, {name}")
    return [str(path) for path in found]


def _seen(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those that a shell's `*` matches too: not `._00000.tar`, which macOS writes beside a file."""
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


# Training data and what it is judged by, side by side.
_SPLIT = re.compile(r"(?:^|[/_.-])(train|test|validation|valid|val|dev)(?=[/_.-])")


def exists(path: Path) -> bool:
    """Whether there is a file or a folder; False for names that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, no permission for the folder, a zero in it
        return False


def _described(address: str) -> File | str:
    """A file's size and version; a sentence where there is none."""
    if not is_remote(address):
        path = Path(address)
        try:
            if not path.is_file():
                return f"{address}: no such file"
            about = path.stat()
        except OSError as error:
            return f"{address}: {error.strerror}"
        if about.st_size == 0:
            return f"{address}: the file is empty (0 bytes)"
        # A link keeps its own name and folder: what it leads to may be called by a number, as in the hub's cache.
        return File(str(path.parent.resolve() / path.name), about.st_size, str(about.st_mtime_ns))
    system, path_there = file_system(address)
    try:
        told = asked(address, lambda: system.info(path_there))
        version = entity_tag(system, told) or asked(address, lambda: system.ukey(path_there))
        return _seekable(address, system, path_there, told.get("size"), str(version))
    except FileNotFoundError:
        return f"{address}: no such file"


_gives_ranges = set[str]()


def _seekable(address: str, system: Any, path: str, size: int | None, version: str) -> File:
    """The file where it is if stretches of it can be fetched; else a copy, made once. One file of a folder is tried for all."""
    folder = address.rpartition("/")[0]
    if size and folder in _gives_ranges:
        return File(address, size, version)
    if size:
        try:
            if len(system.cat_file(path, start=size - 1, end=size)) == 1:
                _gives_ranges.add(folder)
                return File(address, size, version)
        except (NotImplementedError, ValueError, OSError):  # what file systems say that only read from the start
            pass
    copy = cache_folder() / File(address, size or 0, version).key / short_name(address)
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        with replacing(copy) as part:
            asked(address, lambda: system.get_file(path, str(part)))
    return File(str(copy), copy.stat().st_size, version)
