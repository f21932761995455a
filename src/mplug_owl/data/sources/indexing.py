"""Indexing: the headers of all shards are read by several processes, and what is in them is kept in one file for each folder.

It may be killed at any time, and resumes where it was. `python -m mplug_owl.data.sources.indexing PID FORMAT:PATH` does so
beside the run that has this process id, at the lowest priority, and ends with it.
"""

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mplug_owl.data.sources import chunks
from mplug_owl.data.sources.files import SKIP_BROKEN, File, find, skip_broken
from mplug_owl.data.sources.shard_contents import look
from mplug_owl.data.sources.shard_counts import LISTED
from mplug_owl.data.sources.shard_index import Fault, Read, Writer, beside, fetched_index, folder_of, in_cache
from mplug_owl.data.sources.store import asked, file_system, is_remote
from mplug_owl.errors import UserError, WriteError

# Shards are written down after so many seconds, so a kill loses no more than that.
SECONDS = 1.0


def index(spec: str, is_beside: bool | None = None, workers: int = 1, console: Console | None = None) -> list[str]:
    """Index the shards of a path, a folder, a pattern or an address; where the indices are, one for each folder.

    Args:
        spec: `webdataset:PATH` or a path; broken shards are an error, or with `#skip-broken` only said.
        is_beside: Whether an index lies beside the shards; False for the cache, None for wherever can be written.
        workers: Processes that read.
        console: Where progress and broken shards are shown.

    Raises:
        UserError: Shards are missing or broken; all others are indexed.
        WriteError: There is no room.
    """
    path, faults = skip_broken(spec.removeprefix("webdataset:"))
    written, broken = list[str](), list[str]()
    for folder, files in _by_folder(find(path, ".tar", faults)).items():
        near = _is_writable(folder) if is_beside is None else is_beside
        target = Path(beside(folder)) if near and not is_remote(folder) else in_cache(folder)
        try:
            with contextlib.closing(Writer(target)) as writer:
                missing = writer.missing(files)
                if missing:
                    _read_all(missing, target, max(1, min(workers, len(missing))), console)
                broken += writer.faults(missing)
            written.append(_upload(target, beside(folder)) if near and is_remote(folder) else str(target))
        except (sqlite3.Error, OSError) as error:
            raise WriteError(f"{target} could not be written ({error})") from error
    if broken and faults is None:
        more = f"\nand {len(broken) - LISTED:,} more shards" if len(broken) > LISTED else ""
        others = f"\nthe other shards are indexed; {SKIP_BROKEN} after the path leaves these out"
        raise UserError("\n".join(broken[:LISTED]) + more + others)
    if console is not None:
        for fault in (*(faults or ()), *broken):
            console.print(f"left out: {fault}", markup=False, highlight=False)
    return written


def begin_beside(spec: str) -> subprocess.Popen[bytes]:
    """Index shards into the user's cache in a process of its own, at the lowest priority, as long as this one lives."""
    command = [sys.executable, "-m", __name__, str(os.getpid()), spec]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)  # noqa: S603  our own module


def _beside_run(run: int, spec: str) -> None:
    os.nice(19)
    path, faults = skip_broken(spec)
    for folder, files in _by_folder(find(path, ".tar", faults)).items():
        with contextlib.closing(Writer(in_cache(folder))) as writer:
            missing = [file for file in writer.missing(files) if not is_remote(file.address)]
        _read_part(missing, in_cache(folder), multiprocessing.Value("q", 0), run)


def _by_folder(files: Sequence[File]) -> dict[str, list[File]]:
    folders = dict[str, list[File]]()
    for file in files:
        folders.setdefault(folder_of(file), []).append(file)
    return folders


def _read_all(files: Sequence[File], target: Path, workers: int, console: Console | None) -> None:
    """Share the shards out among processes and show how far they are. They end when this one does."""
    done: Synchronized[int] = multiprocessing.Value("q", 0)
    parts = [files[first::workers] for first in range(workers)]
    processes = [multiprocessing.Process(target=_read_part, args=(part, target, done)) for part in parts]
    for process in processes:
        process.start()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=console is None or not console.is_terminal) as bar:
        task = bar.add_task("indexing shards", total=len(files))
        try:
            while any(process.is_alive() for process in processes):
                time.sleep(0.05)
                bar.update(task, completed=done.value)
        finally:
            for process in processes:
                process.terminate()
    if any(process.exitcode == WriteError.exit_code for process in processes):
        raise WriteError(f"{target} could not be written; make room, and it resumes where it was")
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process that reads shards ended early; what it had read is kept")


def _read_part(files: Sequence[File], target: Path, done: "Synchronized[int]", parent: int | None = None) -> None:
    """Read shards as long as `parent` lives; None for whoever started this process, which may be a server of forks."""
    parent = os.getppid() if parent is None else parent
    os.environ[chunks.SETTING] = "0"  # what is read once must not drive out what a run reads again
    try:
        writer = Writer(target)
        for read, faults in _batches(files):
            writer.add(read, faults)
            with done.get_lock():
                done.value += len(read) + len(faults)
            if os.getppid() != parent:
                break
        writer.close()
    except (sqlite3.Error, OSError):
        sys.exit(WriteError.exit_code)


def _batches(files: Sequence[File]) -> Iterator[tuple[list[Read], list[Fault]]]:
    """Shards with what is in them, and broken ones with their faults, as many as are read in a second."""
    began, read, faults = time.monotonic(), list[Read](), list[Fault]()
    for file in files:
        try:
            contents = look(file)
            read.append((file, contents.samples, contents.passed_over))
        except UserError as error:
            faults.append((file, str(error)))
        if time.monotonic() - began > SECONDS:
            yield read, faults
            began, read, faults = time.monotonic(), [], []
    yield read, faults


def _is_writable(folder: str) -> bool:
    return not is_remote(folder) and os.access(folder, os.W_OK)


def _upload(path: Path, address: str) -> str:
    """Put the index of remote shards beside them."""
    system, there = file_system(address)
    asked(address, lambda: system.put_file(str(path), there))
    fetched_index.cache_clear()
    return address


if __name__ == "__main__":
    _beside_run(int(sys.argv[1]), sys.argv[2])
