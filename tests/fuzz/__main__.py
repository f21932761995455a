"""Odd records through every door of the data: read, inspected, checked and encoded, from a seed.

Whatever a record holds, it is learned from or it is a BadSample with its reason. Whatever a file is, it is read or refused by a
UserError. Anything else is an offender: another exception, a library's warning, a record that is gone without a word. The
script prints what became of each kind of record, then the offenders. It exits with 1 if there are any.

    python -m tests.fuzz [--records 20000] [--seed 0] [--kind pictures]
"""

import argparse
import io
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from huggingface_hub import constants
from rich.console import Console

from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.inspect import show
from mplug_owl.data.loader import StepDataset
from mplug_owl.data.mixture import Mixture
from mplug_owl.data.sources import check, read, store
from mplug_owl.errors import UserError
from mplug_owl.model.locate import locate
from mplug_owl.model.processor import MplugOwlProcessor
from tests.fuzz.files import KINDS, TOGETHER

# Records of one file that are read; `scenes:` has as many as one likes.
MOST = 5 * TOGETHER
# After so many the first of them are worth mending.
MOST_OFFENDERS = 50
# No file of a few records takes so long.
SECONDS = 20


def fuzz(
    records: int, seed: int, processor: MplugOwlProcessor, kinds: Sequence[str] = tuple(KINDS)
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """What became of the records, by kind and outcome, and what came out that should not have."""
    outcomes, offenders = Counter[tuple[str, str]](), list[str]()
    number = -1
    while sum(outcomes.values()) < records and len(offenders) < MOST_OFFENDERS:
        number += 1
        kind, random = kinds[number % len(kinds)], Random(f"{seed} {number}")
        with tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings(action="ignore"):  # Pillow writes odd pictures and says so
                spec, written = KINDS[kind](random, Path(folder))
            start = time.perf_counter()
            try:
                good, bad = through(spec, processor)
                outcomes[kind, "learned from"] += good
                outcomes[kind, "BadSample"] += bad
                if written is not None and good + bad != written:
                    offenders.append(f"{kind} {number}: {written} records were written and {good + bad} read, of {spec!a}")
            except UserError as error:
                outcomes[kind, "in a file refused by UserError"] += TOGETHER
                if not 0 < len(str(error).strip()) < 2_000:
                    offenders.append(f"{kind} {number}: a UserError of {len(str(error))} characters, {str(error)[:200]!a}")
            except Exception:
                offenders.append(f"{kind} {number}: {''.join(traceback.format_exc().splitlines(True)[-9:])}")
            if (seconds := time.perf_counter() - start) > SECONDS:
                offenders.append(f"{kind} {number}: took {seconds:.0f} s, {spec[:200]!a}")
    return outcomes, offenders


def through(spec: str, processor: MplugOwlProcessor) -> tuple[int, int]:
    """Every record of a source read, encoded into a batch, checked and inspected. Returns how many were good and bad."""
    with warnings.catch_warnings(action="error"):
        source = read(spec)
        count = min(len(source), MOST)
        whole = Mixture([count], [None], count, seed=0)
        step = StepDataset(Examples([source], processor, Encoding(256), seed=0), whole, micro_batch=8)[0]
        for reason in (*(one.reason for one in step.bad), *check(source, indices=range(count))):
            assert 0 < len(reason.strip()) < 2_000, f"a reason of {len(reason)} characters: {reason[:200]!a}"
        for view in (None, processor):
            paper = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as strict as a terminal: no half characters
            show(source, view, Console(file=paper, width=100), count=5, max_tokens=256)
            paper.flush()
    return count - len(step.bad), len(step.bad)


def main(records: int, seed: int, kinds: Sequence[str]) -> int:
    """Print what became of the records, then the offenders. Returns the exit code."""
    constants.HF_HUB_OFFLINE = True
    store.PAUSES = ()
    processor = MplugOwlProcessor.from_pretrained(locate("owl-tiny"))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        outcomes, offenders = fuzz(records, seed, processor, kinds)
    for (kind, outcome), number in sorted(outcomes.items()):
        print(f"{kind:14}{number:8,}  {outcome}")
    print(f"{sum(outcomes.values()):,} records from seed {seed} in {time.process_time() - start:.0f} CPU seconds")
    for offender in offenders:
        print(f"\nOFFENDER {offender}")
    print(f"{len(offenders)} offenders")
    return 1 if offenders else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), help="this kind alone")
    arguments = parser.parse_args()
    sys.exit(main(arguments.records, arguments.seed, [arguments.kind] if arguments.kind else tuple(KINDS)))
