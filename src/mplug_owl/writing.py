"""Files are written whole or not at all, by one process at a time, and what cannot be written is one kind of error."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from mplug_owl.errors import UserError, WriteError

# torch.save reports a full disk as a RuntimeError of its file writer, which is this file of PyTorch's.
TORCH_WRITER = "inline_container.cc"


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Within it a failed write raises WriteError that names `what`; any other error passes as it is."""
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{what} could not be written ({error})") from error
    except RuntimeError as error:
        if TORCH_WRITER not in str(error):
            raise
        raise WriteError(f"{what} could not be written ({error})") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` where the block ends well.

    Until then `path` stays as it was, whatever happens: an error, a full disk, a crash. Several processes or threads may do so
    at once, and what the last one wrote is kept. A folder is moved aside for the new one, so for a moment there is none.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    _remove(partial)
    try:
        yield partial
        _replace(partial, path)
    finally:
        _remove(partial)


@contextlib.contextmanager
def locked(lock: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Whether this process holds the lock file, for which it waits so many seconds at most; without an end where they are -1.

    The hold ends with the block, or with the process, however that ends. Raises WriteError where the file cannot be locked,
    as on a file system that knows no locks.
    """
    hold = FileLock(lock)
    try:
        hold.acquire(timeout=seconds)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise WriteError(f"{lock}: cannot be locked ({error}); choose a folder where files can be") from error
    try:
        yield True
    finally:
        hold.release()


@contextlib.contextmanager
def sole_writer(lock: Path, refusal: str, seconds: float = 0.0) -> Iterator[None]:
    """Nobody else holds this lock file meanwhile. Its folder is made. Where a file system knows no locks, nobody is refused.

    Raises:
        UserError: Another process holds it, so many seconds long; `refusal` is what the error says.
        WriteError: The folder cannot be made.
    """
    with writing(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(WriteError):
            if not stack.enter_context(locked(lock, seconds)):
                raise UserError(refusal)
        yield


def _replace(partial: Path, path: Path) -> None:
    """Folders cannot be exchanged in one go, and to remove a large one takes long: a kill meanwhile would leave half of it."""
    before = partial.with_name(f"{partial.name.removesuffix('.partial')}.before.partial")
    while True:
        if path.is_dir():
            _remove(before)
            with contextlib.suppress(FileNotFoundError):  # another process moved it
                path.rename(before)
        try:
            partial.replace(path)
        except OSError:
            if path.is_dir():  # another process was quicker, and this one is the last
                continue
            with contextlib.suppress(OSError):
                before.rename(path)
            raise
        _remove(before)
        return


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
