"""How soon a program starts: CPU seconds of a process, the quickest of several, one thread.

`import torch` alone is beside it, for that share is not ours.

    python -m benchmarks.start [--repeats 5]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.command import count, machine
from mplug_owl.scenes import scene

QUESTION = "How many things are there?"
IMPORTS = ("import torch", "import mplug_owl", "from mplug_owl import load")
BARS = {"import mplug_owl": 2.5, "owl chat": 4.0}


def seconds(command: list[str]) -> float:
    """CPU seconds, user's and system's, of a process that ends well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(picture: Path) -> dict[str, list[str]]:
    """What is timed, by its name."""
    program = "import sys; sys.argv[0] = 'owl'; import mplug_owl_cli; mplug_owl_cli.main()"
    owl = [sys.executable, "-c", program]
    return {
        **{code: [sys.executable, "-c", code] for code in IMPORTS},
        "owl --help": [*owl, "--help"],
        "owl chat": [*owl, "chat", "owl-tiny", "--image", str(picture), QUESTION],
    }


def main(repeats: int) -> None:
    """A line a command: the quickest, and its bar where it has one."""
    print(f"{machine()}; one thread, the quickest of {repeats}")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "scene.png"
        scene(1).draw().save(picture)
        for name, command in commands(picture).items():
            seconds(command)  # files come into the page cache
            quickest = min(seconds(command) for _ in range(repeats))
            print(f"{name}: {quickest:.2f} CPU s" + (f" (bar {BARS[name]})" if name in BARS else ""), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=count, default=5)
    main(parser.parse_args().repeats)
