"""What the benchmarks' commands share: the machine's name, what options may be, and errors of one line.

It imports nothing large, so that processes which are measured are no larger for it.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path


def machine() -> str:
    """The processor's name and how many cores are here."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{(names or [platform.processor()])[0]}, {os.cpu_count()} cores, {'AMX' if 'amx_bf16' in flags else 'no AMX'}"


def count(text: str) -> int:
    """An option that is at least one."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


def checkout(text: str) -> Path:
    """An option that is a checkout of this project: without its package the installed one would be measured in its place."""
    path = Path(text).resolve()
    if not (path / "src" / "mplug_owl").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no checkout, expected a folder with src/mplug_owl")
    return path


def new_file(text: str) -> Path:
    """An option that is a file to write, so that a missing folder is said before hours of work and not after them."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.parent}")
    return path


def run(main: Callable[[], None]) -> None:
    """Run a command. What a user can mend, and a run that was stopped, end it with a sentence and their exit code."""
    try:
        main()
    except Exception as error:
        from mplug_owl import errors

        if not isinstance(error, (errors.UserError, errors.BadSample, errors.WriteError, errors.Interrupted)):
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
