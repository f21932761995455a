"""A process with other code or other libraries, which takes its turn beside this one: a line in, a line of JSON out."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]


class Beside:
    """Runs a command on one thread until the `with` block ends.

    Args:
        command: The program and its arguments.
        paths: Where it finds modules, in front of what is installed.
        quiet: Its errors are not shown.
    """

    def __init__(self, command: Sequence[str], paths: Sequence[Path] = (), quiet: bool = False) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))},
        )

    def ask(self, line: str) -> Any:
        """Its answer to a line. Raises SystemExit where it ends without one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(line, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"{self.process.args}: ended before it answered; run it by hand to see why")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.process.communicate()
        except BrokenPipeError:
            self.process.wait()


def of_checkout(command: Sequence[str], checkout: Path) -> Beside:
    """A benchmark of ours with the package of another checkout."""
    return Beside(command, (checkout / "src", ROOT))
