"""The benchmark of words by kinds of weights: each share is of the fp32 that is named, another checkout chooses as it does."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import before, words

STAND_IN = """
def plain():
    return "an owl"


def sentence(model, rows):
    assert (model, rows) == ("an owl", 4)
"""


def test_shares_are_of_the_fp32_that_is_named() -> None:
    rounds = {"fp32": iter([9.0, 2.0, 4.0]), "int8": iter([9.0, 1.0, 1.0]), words.BEFORE: iter([9.0, 4.0, 8.0])}
    taken = words.compare({name: lambda several=several: next(several) for name, several in rounds.items()}, 2)
    first, second, last = words.lines(4, taken)
    assert first == "4 x 64 words, fp32: 2.00 s at best, 3.00 median, 0.50 of fp32 before"
    assert second == "4 x 64 words, int8: 1.00 s at best, 1.00 median, 0.38 of fp32, 0.19 of fp32 before, bar 0.5"
    assert last == "4 x 64 words, fp32 before: 4.00 s at best, 6.00 median, 2.00 of fp32"


def test_another_checkout_chooses_words_as_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "words.py").write_text(STAND_IN)
    asked = json.dumps({"rows": 4, "words": 64, "prompt": 40}) + "\nagain\nagain\n"
    done = subprocess.run(
        [sys.executable, before.__file__], input=asked, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    made, *rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert (made, [set(one) for one in rounds]) == ({}, [{"cpu", "wall"}] * 2), done.stderr
