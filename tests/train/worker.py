"""The recipe that `test_processes.py` runs: owl train tests/train/worker.py:run.

HARM=KILL:3 or HARM=STOP:3 sends that signal to the second process when it comes to that step, in its first life.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

from mplug_owl.data.loader import StepBatches, StepDataset
from mplug_owl.train.recipe import Recipe
from tests.school import lesson


def run() -> Recipe:
    """Pictures and text alone are mixed, so some passes leave the vision encoder without a gradient."""
    if "HARM" in os.environ and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        _arm(*os.environ["HARM"].split(":"))
    return lesson(batch=8, micro_batch=1, steps=6, save_every=2)


def typed(words: list[str], settings: dict[str, str], said: Path) -> None:
    """Type `owl WORDS` in this process with these environment variables; what it prints goes to the end of a file."""
    import mplug_owl_cli

    os.environ.update(settings, OMP_NUM_THREADS="1", COLUMNS="200")
    with said.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    sys.argv = ["owl", *words]
    mplug_owl_cli.main()


def _arm(sent: str, step: str) -> None:
    read = StepDataset.__getitem__

    def dying(steps: StepDataset, number: int) -> StepBatches:
        if number == int(step):
            os.kill(os.getpid(), getattr(signal, f"SIG{sent}"))
        return read(steps, number)

    StepDataset.__getitem__ = dying
