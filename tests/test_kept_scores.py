"""The scores of a study that are kept in the repository say what its table in the documentation says."""

import json
import re
import tarfile
from pathlib import Path

import pytest

from mplug_owl.experiments.paradigms import paradigms

ROOT = Path(__file__).parents[1]
SEEN, UNSEEN = "with the picture", "unseen combinations"


def cells(line: str) -> list[str]:
    return [cell.strip(" `") for cell in line.strip("|\n ").split("|")]


@pytest.mark.parametrize("column", [SEEN, UNSEEN, "told in words"])
def test_the_table_of_paradigms_is_of_the_scores_that_are_kept(column: str) -> None:
    text = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
    table = re.search(r"^\| arm \| seeds \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    place = cells(table[0].splitlines()[0]).index(column)
    told = {row[0]: (int(row[1]), float(row[place].split()[0])) for row in map(cells, table[1].splitlines())}
    found: dict[str, list[float]] = {arm: [] for arm in told}
    with tarfile.open(ROOT / "docs" / "studies" / "paradigms-scores.tar.xz") as kept:
        names = [name for name in kept.getnames() if name.endswith("scores.json")]
        for arm in told:
            stage = paradigms().arm(arm).stages[-1].name
            for name in names:
                if name.startswith(f"{stage}-"):
                    file = kept.extractfile(name)
                    assert file is not None
                    rows = json.loads(file.read())[column]
                    found[arm].append(sum(score for *_, score in rows) / len(rows))
    assert {arm: (len(shares), round(100 * sum(shares) / len(shares), 1)) for arm, shares in found.items()} == told
