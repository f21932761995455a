"""The command `owl`: one verb, one job, a file for each room of the house.

Outside the package and with its imports inside the verbs, so that --help answers at once: importing mplug_owl registers the
model with transformers, which takes seconds.
"""

import io
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import NoReturn

from mplug_owl_cli.answer import answer
from mplug_owl_cli.app import app
from mplug_owl_cli.chat import chat
from mplug_owl_cli.data import inspect
from mplug_owl_cli.evaluate import evaluate
from mplug_owl_cli.experiments import ablate, demo
from mplug_owl_cli.index import index
from mplug_owl_cli.judge import judge
from mplug_owl_cli.model import convert
from mplug_owl_cli.rate import rate
from mplug_owl_cli.report import report
from mplug_owl_cli.serve import serve
from mplug_owl_cli.train import plan, recipes, train

__all__ = ["app", "main"]

# In the order in which --help lists them.
VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "chat": chat,
    "recipes": recipes,
    "plan": plan,
    "inspect": inspect,
    "index": index,
    "train": train,
    "serve": serve,
    "answer": answer,
    "eval": evaluate,
    "rate": rate,
    "judge": judge,
    "report": report,
    "convert": convert,
    "ablate": ablate,
}
for name, verb in VERBS.items():
    app.command(name)(verb)


def main() -> NoReturn:
    """Run a verb. What a user can mend is one clear line; OWL_DEBUG=1 shows where it came from."""
    _be_quiet()
    _print_any_letter()
    try:
        _refuse_empty_words(sys.argv[1:])
        app(prog_name="owl")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from mplug_owl import errors  # not above: importing the package imports torch

        known = (errors.UserError, errors.BadSample, errors.WriteError, errors.Interrupted)
        if not isinstance(error, known) or os.environ.get("OWL_DEBUG"):
            raise
        _say(f"owl: {error}")
        sys.exit(error.exit_code)
    sys.exit(0)


def _say(sentence: str) -> None:
    """Of the processes that train on one machine the first speaks: they fail for the same reasons."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(sentence, file=sys.stderr)
    else:
        time.sleep(2)  # a launcher that sees one leave ends the others, and the first would not come to speak


def _refuse_empty_words(words: list[str]) -> None:
    """A shell's variable that nobody set: `--from "$RUN"` would train afresh, `--out "$OUT"` write where one stands.

    Raises UserError that names what stands before it.
    """
    for before, word in pairwise(["owl", *words]):
        if word == "" or re.fullmatch(r"--[a-z-]+=", word):
            from mplug_owl.errors import UserError

            raise UserError(f"{word or before}: an empty word follows; is a variable of the shell not set?")


def _print_any_letter() -> None:
    """A file or a pipe may have an old encoding, as on Windows, and a file's name bytes that are no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower().startswith("utf") else "replace")


def _be_quiet() -> None:
    """Libraries' bars and hints are not ours to show; their errors are."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LOCAL_RANK", "0") != "0":
        warnings.simplefilter("ignore")  # said once is enough
