"""Files near and far: names with patterns in them, whole or by stretches of bytes, on this machine or through fsspec."""

import hashlib
import importlib
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

# A network forgets a request now and then; the second after that it is there again.
PAUSES = (1.0, 4.0)
# Asking a store about thousands of files, one after the other, would take minutes.
AT_ONCE = 16


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
        """The whole of it, for reading from start to end."""
        if not is_remote(self.address):
            return Path(self.address).open("rb")
        system, path = _system(self.address)
        return system.open(path, "rb")

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`. No handle stays open, so any process may call it, forked ones too."""
        if not is_remote(self.address):
            with Path(self.address).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        for pause in PAUSES:
            try:
                return self._fetch(start, end)
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(pause)
        return self._fetch(start, end)

    def _fetch(self, start: int, end: int) -> bytes:
        system, path = _system(self.address)
        return system.cat_file(path, start=start, end=end)


def find(pattern: str, ending: str) -> list[File]:
    """The files of a path or an address; `{00000..00012}`, `{a,b}` and `*` stand for several, a folder for all of its `ending`.

    Raises ValueError that names what is missing.
    """
    whole = str(Path(pattern).expanduser()) if not is_remote(pattern) else pattern
    names = [whole] if not is_remote(whole) and Path(whole).exists() else list(_spelled_out(whole))
    addresses = [address for name in names for address in _matching(name, ending)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(_described, addresses))
    if missing := [address for address, file in zip(addresses, found, strict=True) if file is None]:
        others = f", nor {len(missing) - 1:,} more of {len(addresses):,}" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0]}: no such file{others}")
    return [file for file in found if file is not None]


def is_remote(address: str) -> bool:
    """Whether this is an address for fsspec (`s3://...`, `simplecache::https://...`) and no path."""
    return "://" in address or "::" in address


def is_pattern(address: str) -> bool:
    """Whether this may stand for several files."""
    return has_magic(address) or re.search(_BRACES, address) is not None


def short_name(address: str) -> str:
    """The last part of a path or an address, without what follows a question mark."""
    return re.split("[?#]", address)[0].rpartition("/")[2] if is_remote(address) else Path(address).name


def cache_folder() -> Path:
    """Where what was learnt about files is kept: `mplug-owl` in the user's folder for caches."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mplug-owl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written to") from None
    return folder


def needed(module: str, what: str) -> ModuleType:
    """An optional dependency. Raises ValueError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(f"{what} needs {package}, which is not installed; pip install 'mplug-owl[data]'") from None


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
        step = 1 if int(first) <= int(last) else -1
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        options = [f"{number:0{width}}" for number in range(int(first), int(last) + step, step)]
    for option in options:
        yield from _spelled_out(head + option + tail)


def _matching(name: str, ending: str) -> list[str]:
    if is_remote(name):
        if not has_magic(name) and not name.endswith("/"):
            return [name]
        pattern = name if has_magic(name) else f"{name}*{ending}"
        before, chain, store = pattern.rpartition("::")  # simplecache::s3://..., the store is the last of them
        system, path = _system(store)
        addresses = [before + chain + system.unstrip_protocol(found) for found in sorted(system.glob(path))]
    else:
        pattern = str(Path(name) / f"*{ending}") if Path(name).is_dir() else name
        if not has_magic(pattern) or Path(pattern).exists():
            return [pattern]
        addresses = sorted(glob(pattern, recursive=True))  # noqa: PTH207  a pattern may be absolute
        if not addresses and pattern != name:
            raise ValueError(f"{name}: a folder; expected a file, or files that end in {ending} in it")
    if not addresses:
        raise ValueError(f"{pattern}: no such file; nothing matches the pattern")
    return addresses


def _described(address: str) -> File | None:
    """A file's size and version; None where there is none."""
    if not is_remote(address):
        path = Path(address)
        if not path.is_file():
            return None
        about = path.stat()
        if about.st_size == 0:
            raise ValueError(f"{address}: the file is empty (0 bytes)")
        return File(str(path.resolve()), about.st_size, str(about.st_mtime_ns))
    system, path = _system(address)
    try:
        about = system.info(path)
        version = system.ukey(path)
    except FileNotFoundError:
        return None
    return _seekable(address, system, path, about.get("size"), str(version))


def _seekable(address: str, system: Any, path: str, size: int | None, version: str) -> File:
    """The file where it is if stretches of it can be fetched; else a copy, made once."""
    if size:
        try:
            if len(system.cat_file(path, start=size - 1, end=size)) == 1:
                return File(address, size, version)
        except (NotImplementedError, ValueError, OSError):  # what file systems say that only read from the start
            pass
    copy = cache_folder() / File(address, size or 0, version).key / short_name(address)
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
        system.get_file(path, str(part))
        part.replace(copy)
    return File(str(copy), copy.stat().st_size, version)


def _system(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        # fsspec keeps one file system for each process, so asking again costs little and is right after a fork.
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:  # it says which package an address needs, and which protocols there are
        raise ValueError(f"{address}: {error}") from None
