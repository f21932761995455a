"""What was scored in a study's cells: they are compared question by question, so they were all asked the same."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.errors import UserError, WriteError
from mplug_owl.eval.task import Question
from mplug_owl.experiments import cells
from mplug_owl.experiments.ablation import ablate, report
from mplug_owl.experiments.cells import Scores
from mplug_owl.experiments.study import Arm, Claim, Study
from tests.experiments.test_ablation import Colours, Guesser, guesses
from tests.school import lesson

pytest.importorskip("scipy")
QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Renamed(Colours):
    """As many questions as before the task changed, and others."""

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        return [replace(one, id=f"new-{one.id}") for one in super().questions(split, count, seed)]


@pytest.mark.parametrize("claims", [(), (Claim("", "much", "none", "asked"),)])
def test_an_arm_that_was_asked_other_questions_than_another_is_refused(tmp_path: Path, claims: tuple[Claim, ...]) -> None:
    study = replace(guesses(none=0.0, much=1.0), claims=claims)
    ablate(study, tmp_path, console=QUIET, arms=("none",))
    with pytest.raises(UserError, match=r"much-seed0/exam-\w+: other questions than in .*none-seed0/exam-\w+; remove"):
        ablate(replace(study, task=Renamed()), tmp_path, console=QUIET, arms=("much",))


def rows(*found: tuple[str, str, float | None]) -> list[list[object]]:
    return [[str(number), ability, picture, score] for number, (ability, picture, score) in enumerate(found)]


def test_a_picture_counts_once_in_several_abilities_too() -> None:
    scores = Scores((0,), (rows(("read", "cat", 1.0), ("count", "cat", 0.0), ("count", "dog", 1.0), ("guess", "cow", None)),))
    assert scores.abilities == ["read", "count", "guess"]
    assert scores.of(["read", "count"]).tolist() == [[0.5, 1.0]]
    assert scores.of(["count"]).tolist() == [[0.0, 1.0]]
    assert scores.of().shape == (1, 3)


@dataclass(frozen=True)
class Few(Colours):
    """Five of the questions."""

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        return super().questions(split, count, seed)[:5]


def test_five_questions_tell_nothing_apart_and_the_verdict_says_why(tmp_path: Path) -> None:
    found = ablate(replace(guesses(none=0.0, much=1.0), task=Few()), tmp_path, console=QUIET)
    none = found.of("asked")[0]
    assert (none.differences["overall"].value, none.differences["overall"].verdict) == (-1, "too few questions")
    assert {tried.mark for tried in found.claims} == {"undecided"}
    assert "too few questions" in (tmp_path / "table.txt").read_text("utf-8")


def test_a_report_is_of_all_seeds_that_are_there(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    ablate(study, tmp_path, seeds=4, console=QUIET, arms=("much",))
    assert report(study, tmp_path, console=QUIET).seeds == (0, 1, 2, 3)
    assert report(study, tmp_path, 2, QUIET).seeds == (0, 1)
    assert ablate(study, tmp_path, console=QUIET).missing == 1  # three of the other arm


def test_pictures_cost_where_a_step_is_so_many_tokens(tmp_path: Path) -> None:
    line = {"step": 2, "tokens_per_step": 100, "tokens_per_second": 50}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    mixed = lesson(data=("scenes:chats", "scenes:text"), steps=2, batch=None, batch_tokens=4_000_000, text_share=0.01)
    seeing, hardly = (cells._cost(replace(mixed, text_share=share), tmp_path) for share in (0.01, 0.99))
    assert (seeing.seconds, hardly.seconds) == (4.0, 4.0)
    assert seeing.flops > 2 * hardly.flops


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*unused: object, **also: object) -> None:
        raise NotImplementedError("no flock")

    monkeypatch.setattr("filelock.FileLock.acquire", unknown)
    with pytest.raises(WriteError, match=r"\.none-seed0\.lock: cannot be locked \(no flock\); choose a folder"):
        ablate(guesses(none=0.0, much=1.0), tmp_path, console=QUIET)


def only(name: str) -> Arm:
    return Arm(name, "guesses", answers=lambda _: Guesser(0.5))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Study("../mine", "", (only("a"),)), r"study '\.\./mine': it names a folder"),
        (lambda: Study("", "", (only("a"),)), "study '': it names a folder"),
        (lambda: Study("s", "", (only("a"),), questions=0), "questions is 0; expected 1 or more"),
        (lambda: Study("s", "", (only("a"),), conditions=()), "asks 'with the picture' more than once; name each"),
        (lambda: Study("s", "", (only("a"),), conditions=("without", "without")), "asks 'without' more than once"),
        (lambda: Arm("a", "", answers=Guesser(0.5)), "answers is a Guesser; expected a function that makes one"),
    ],
)
def test_a_study_that_would_mix_or_lose_its_cells_is_refused(made: object, message: str) -> None:
    assert callable(made)
    with pytest.raises(UserError, match=message):
        made()
