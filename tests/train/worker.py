"""The recipe that `test_processes.py` runs: owl train tests/train/worker.py:run.

HARM=KILL:3 or HARM=STOP:3 sends that signal to the second process when it comes to that step, in its first life.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

from mplug_owl import MplugOwlConfig
from mplug_owl.data.loader import StepBatches, StepDataset
from mplug_owl.model.build import Modules
from mplug_owl.train.recipe import Recipe
from tests.school import lesson, small


def run() -> Recipe:
    """Pictures and text alone are mixed, so some passes leave the vision encoder without a gradient."""
    if "HARM" in os.environ and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        _arm(*os.environ["HARM"].split(":"))
    return lesson(batch=8, micro_batch=1, steps=6, save_every=2, modules=Modules(sizes, vocabulary=300))


def sizes() -> MplugOwlConfig:
    """A function of a file that is given by its path: no process can send it to another."""
    return small()


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


def met(rank: int, restarts: int, port: int) -> None:
    """Meet another process as torchrun starts them again; ends with the sum of both ranks and 40."""
    from datetime import timedelta

    import torch

    from mplug_owl.train.processes import _meet

    places = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": restarts}
    os.environ.update({name: str(value) for name, value in {**places, **elastic}.items()})
    _meet(timedelta(seconds=30))
    summed = torch.tensor([20 + rank])
    torch.distributed.all_reduce(summed)
    torch.distributed.destroy_process_group()
    sys.exit(int(summed))


def _arm(sent: str, step: str) -> None:
    read = StepDataset.__getitem__

    def dying(steps: StepDataset, number: int) -> StepBatches:
        if number == int(step):
            os.kill(os.getpid(), getattr(signal, f"SIG{sent}"))
        return read(steps, number)

    StepDataset.__getitem__ = dying
