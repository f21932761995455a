"""The scores of a study that are kept in the repository say what its table in the documentation says."""

import json
import re
import tarfile
from pathlib import Path

import pytest

from mplug_owl.experiments.cells import Cell
from mplug_owl.experiments.paradigms import paradigms
from mplug_owl.experiments.study import Study

ROOT = Path(__file__).parents[1]
SEEN, UNSEEN = "with the picture", "unseen combinations"


def cells(line: str) -> list[str]:
    return [cell.strip(" `") for cell in line.strip("|\n ").split("|")]


@pytest.fixture(scope="module")
def study() -> Study:
    """Its budgets are counted when it is made, which takes seconds."""
    return paradigms()


@pytest.mark.parametrize("column", [SEEN, UNSEEN, "told in words"])
def test_the_table_of_paradigms_is_of_the_scores_that_are_kept(column: str, study: Study) -> None:
    text = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
    tables = [
        [cells(line) for line in rows.splitlines()] for rows in re.findall(r"^\| arm \| seeds \|.*\n(?:\|.*\n)+", text, re.M)
    ]
    told = {row[0]: (int(row[1]), float(row[head.index(column)].split()[0])) for head, _, *rows in tables for row in rows}
    assert told
    found: dict[str, list[float]] = {arm: [] for arm in told}
    with tarfile.open(ROOT / "docs" / "studies" / "paradigms-scores.tar.xz") as kept:
        names = [name for name in kept.getnames() if name.endswith("scores.json")]
        for arm in told:
            last = Cell(study.arm(arm), 0, Path())
            stage, exam = last.runs[-1].recipe.name, last.exam_folder(study).name
            for name in names:
                if name.startswith(f"{stage}-") and f"/{exam}/" in name:
                    file = kept.extractfile(name)
                    assert file is not None
                    rows = json.loads(file.read())[column]
                    found[arm].append(sum(score for *_, score in rows) / len(rows))
    assert {arm: (len(shares), round(100 * sum(shares) / len(shares), 1)) for arm, shares in found.items()} == told


def test_what_answers_took_is_counted_over_as_many_answers_in_every_cell() -> None:
    with tarfile.open(ROOT / "docs" / "studies" / "paradigms-scores.tar.xz") as kept:
        files = [file for name in kept.getnames() if name.endswith("calls.json") and (file := kept.extractfile(name))]
        answers = [json.loads(file.read())["answers"] for file in files]
    assert len(answers) >= 3
    assert len(set(answers)) == 1
