"""A study in whole: cells are shared, skipped and resumed, its folder is guarded, and its report says what it does not know."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from filelock import FileLock
from rich.console import Console
from typer.testing import CliRunner

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, Grader
from mplug_owl.eval.graders.exact import ExactMatch
from mplug_owl.eval.graders.normalised import Contains
from mplug_owl.eval.task import Condition, Question
from mplug_owl.experiments import ablation, ablation_plan, cells
from mplug_owl.experiments.ablation import ablate, report
from mplug_owl.experiments.ablation_report import write as write_report
from mplug_owl.experiments.cells import Cell, is_trained
from mplug_owl.experiments.effects import Estimate
from mplug_owl.experiments.findings import gather
from mplug_owl.experiments.study import Arm, Claim, Study, find
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.run import train
from mplug_owl_cli import app
from tests.school import lesson
from tests.world import write

pytest.importorskip("scipy")
QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Colours:
    """Twelve questions in words."""

    name: str = "colours"
    conditions: Sequence[Condition] = (Condition("all", "picture", "asked", "colours"),)
    grader: Grader = field(default_factory=ExactMatch)

    def questions(self, split: str, count: int | None, seed: int) -> list[Question]:
        return [Question(f"q{n}", ("warm", "cold")[n % 2], "colour", ((f"Which, {n}?", "red"),)) for n in range(12)]


@dataclass(frozen=True)
class Guesser:
    """Is right as often as it knows."""

    knows: float

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        random = Random(self.knows)
        return ["red" if random.random() < self.knows else "blue" for _ in conversations]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Iterator[str]:
        yield "red"


def guesses(**knows: float) -> Study:
    arms = tuple(Arm(name, f"knows {share:.0%}", answers=lambda _, s=share: Guesser(s)) for name, share in knows.items())
    claims = (
        Claim("Much is more than nothing.", "much", "none", "asked"),
        Claim("And nothing more than much.", "none", "much", "asked"),
    )
    return Study("guesses", "Who knows more?", arms, claims=claims, task=Colours(), conditions=())


def taught(folder: Path) -> Study:
    """Two arms of lessons that begin with the same one."""
    write(folder, 8, 5)
    first = lesson(data=(f"chat:{folder}/chats.jsonl",), steps=2, threads=1)
    second = replace(first, name="more", steps=3)

    def answers(trained: Path | None) -> Guesser:
        assert trained is not None
        assert (trained / "model").is_dir()
        return Guesser(0.5)

    arms = (Arm("one", "a lesson", (first,), answers), Arm("two", "two lessons", (first, second), answers))
    return Study("taught", "Does a second lesson help?", arms, task=Colours(), conditions=())


def test_claims_arms_and_costs_come_out_as_they_are(tmp_path: Path) -> None:
    found = ablate(guesses(none=0.0, much=1.0), tmp_path / "out", console=QUIET)
    assert [tried.mark for tried in found.claims] == ["holds", "does not hold"]
    none, much = found.of("asked")
    assert (none.differences["overall"].value, none.differences["overall"].verdict, much.differences) == (-1, "worse", {})
    assert set(none.means) == {"overall", "warm", "cold"}
    assert found.missing == 0


def test_the_report_is_whole_and_the_same_again(tmp_path: Path) -> None:
    study, out = guesses(none=0.1, some=0.5, much=0.8), tmp_path / "out"
    ablate(study, out, console=QUIET)
    before = {name: (out / name).read_bytes() for name in ("results.json", "table.txt", "study.html", "figure.svg")}
    ablate(study, out, console=QUIET)
    assert before == {name: (out / name).read_bytes() for name in before}
    rows = json.loads(before["results.json"])["rows"]
    assert [row["arm"] for row in rows] == ["none", "some", "much"]
    page = before["study.html"].decode()
    assert "Who knows more?" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_what_is_no_number_is_null_in_the_results(tmp_path: Path) -> None:
    """NaN is no JSON: a reader that keeps to it would refuse the whole file."""
    found = ablate(guesses(none=0.1, much=0.8), tmp_path / "out", console=QUIET)
    unknown = replace(found.rows[0], means={"overall": Estimate(math.nan, None, None, None)})
    write_report(replace(found, rows=(unknown, *found.rows[1:])), tmp_path / "out", QUIET)
    rows = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)["rows"]
    assert rows[0]["means"]["overall"]["value"] is None


def test_two_seeds_have_no_bars_and_say_so(tmp_path: Path) -> None:
    found = ablate(guesses(none=0.0, much=1.0), tmp_path / "out", seeds=2, console=QUIET)
    assert {tried.mark for tried in found.claims} == {"undecided"}
    assert "they need 3 seeds" in (tmp_path / "out" / "table.txt").read_text("utf-8")


def test_before_anything_is_run_the_findings_say_so(tmp_path: Path) -> None:
    found = gather(guesses(none=0.0, much=1.0), tmp_path, range(3))
    assert ({tried.mark for tried in found.claims}, found.missing, found.noise) == ({"not run yet"}, 6, None)


def test_arms_that_are_asked_for_are_run_alone_and_reported_among_all(tmp_path: Path) -> None:
    study, out = guesses(none=0.0, some=0.5, much=1.0), tmp_path / "out"
    found = ablate(study, out, console=QUIET, arms=("much", "none", "much"))
    assert [len(row.seeds) for row in found.of("asked")] == [3, 0, 3]
    assert found.missing == 3
    with pytest.raises(UserError, match="has no arm most; it has none, some, much"):
        ablate(study, out, console=QUIET, arms=("most",))


def test_a_report_trains_nothing_and_is_the_one_of_the_run(tmp_path: Path) -> None:
    study, out = guesses(none=0.0, much=1.0), tmp_path / "out"
    with pytest.raises(UserError, match="out: holds no study; begin guesses by owl ablate without --report, or name"):
        report(study, out)
    ablate(study, out, seeds=2, console=QUIET)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    (out / "study.html").unlink()
    assert report(study, out, 2, QUIET).missing == 0
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert report(study, out, 3, QUIET).missing == 2
    with pytest.raises(UserError, match="holds the study guesses, not other; give another --out"):
        report(replace(study, name="other"), out)


def test_stages_of_another_study_are_taken_with_what_follows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, there, out = taught(tmp_path / "data"), tmp_path / "there", tmp_path / "out"
    with pytest.raises(UserError, match="holds no study; --reuse takes"):
        ablate(study, out, seeds=1, console=QUIET, reuse=there)
    ablate(study, there, seeds=1, console=QUIET, arms=("one",))
    trained = ablation.train_stage
    began: list[str] = []
    monkeypatch.setattr(
        ablation, "train_stage", lambda out, run, *rest: (began.append(run.recipe.name), trained(out, run, *rest))
    )
    ablate(study, out, seeds=1, console=QUIET, reuse=there)
    assert began == ["more"]
    alone = tmp_path / "alone"
    ablate(study, alone, seeds=1, console=QUIET)
    last = Cell(study.arm("two"), 0, alone).runs[-1].name
    weights = [(folder / last / "model" / "model.safetensors").read_bytes() for folder in (out, alone)]
    assert weights[0] == weights[1]


def test_what_arms_share_is_trained_once_and_done_cells_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out = taught(tmp_path / "data"), tmp_path / "out"
    found = ablate(study, out, seeds=1, console=QUIET)
    runs = sorted(path.name.partition("-")[0] for path in out.iterdir() if path.is_dir())
    assert runs == ["lesson", "more"]
    cost = found.costs["two"]
    assert cost is not None
    assert cost.flops > 0
    assert not list(out.rglob("checkpoints"))
    monkeypatch.setattr(ablation, "train_stage", lambda *unused: pytest.fail("a done cell was trained again"))
    monkeypatch.setattr(ablation, "take_exam", lambda *unused: pytest.fail("a done cell was asked again"))
    assert ablate(study, out, seeds=1, console=QUIET).rows == found.rows


def test_scores_outlive_the_weights_which_are_trained_again_where_an_arm_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = taught(tmp_path / "data"), (tmp_path / "out").resolve()
    one, two = (Cell(arm, 0, out) for arm in study.arms)
    ablate(study, out, seeds=1, console=QUIET)
    before = {file: file.read_bytes() for file in (out / one.folder.name / "model").iterdir()}
    found = report(study, out, 1, QUIET)
    trained, began, unfinished = ablation.train_stage, list[str](), list[bool]()
    monkeypatch.setattr(
        ablation, "train_stage", lambda out, run, *rest: (began.append(run.recipe.name), trained(out, run, *rest))
    )
    shutil.rmtree(one.folder / "model")
    shutil.rmtree(two.exam_folder(study))
    assert ablate(study, out, seeds=1, console=QUIET).rows == found.rows
    assert began == []  # the second lesson's model is there, and the first arm has its scores
    shutil.rmtree(two.folder)

    def watched(recipe: Recipe, folder: Path, **rest: object) -> Path:
        unfinished.append(is_trained(out, one.runs[0]))
        return train(recipe, folder, **rest)

    monkeypatch.setattr(cells, "train", watched)
    assert ablate(study, out, seeds=1, console=QUIET).rows == found.rows
    assert began == ["lesson", "more"]
    assert unfinished[0] is False  # the next stage waits for it
    assert before == {file: file.read_bytes() for file in before}


def test_stages_that_are_taken_leave_the_scores_that_are_there(tmp_path: Path) -> None:
    study, there, out = taught(tmp_path / "data"), tmp_path / "there", tmp_path / "out"
    for folder in (there, out):
        ablate(study, folder, seeds=1, console=QUIET, arms=("one",))
    cell = Cell(study.arm("one"), 0, out.resolve())
    shutil.rmtree(cell.folder / "model")
    kept = (cell.exam_folder(study) / "scores.json").stat()
    ablate(study, out, seeds=1, console=QUIET, arms=("one",), reuse=there)
    assert (cell.folder / "model").is_dir()
    assert (cell.exam_folder(study) / "scores.json").stat().st_mtime == kept.st_mtime


def test_another_grader_asks_anew_and_other_questions_are_refused(tmp_path: Path) -> None:
    study, out = guesses(none=0.0, much=1.0), tmp_path / "out"
    ablate(study, out, seeds=1, console=QUIET)
    cell = Cell(study.arm("much"), 0, out.resolve())
    other = replace(study, task=Colours(grader=Contains()))
    assert not cell.is_done(other)
    assert ablate(other, out, seeds=2, console=QUIET).missing == 0
    file = Cell(study.arm("much"), 1, out.resolve()).exam_folder(other) / "scores.json"
    file.write_text(file.read_text().replace("q11", "q12"))
    with pytest.raises(UserError, match=r"seed1/exam-\w+: other questions than in .*seed0/exam-\w+; remove"):
        report(other, out, 2, QUIET)


def test_what_another_process_is_at_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, out = taught(tmp_path / "data"), (tmp_path / "out").resolve()
    first, second = (Cell(arm, 0, out) for arm in study.arms)
    out.mkdir()
    waited: list[float] = []
    held = FileLock(out / f".{first.folder.name}.lock")
    held.acquire()

    def pause(seconds: float) -> None:
        waited.append(seconds)
        assert not is_trained(out, first.runs[0])
        held.release()

    monkeypatch.setattr(ablation.time, "sleep", pause)
    ablate(study, out, seeds=1, console=QUIET)
    assert waited == [ablation.PAUSE]
    assert first.is_done(study)
    assert second.is_done(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda study: {"study": replace(study, name="other")}, "holds another study, study guesses there and other now"),
        (lambda study: {"study": study, "quick": True}, "quick False there and True now"),
        (lambda study: {"study": study, "share": 0.5}, "has 1 of the usual steps, not 0.5"),
    ],
)
def test_a_folder_holds_one_study(tmp_path: Path, change: object, message: str) -> None:
    study = guesses(none=0.0, much=1.0)
    ablate(study, tmp_path / "out", console=QUIET)
    assert callable(change)
    with pytest.raises(UserError, match=message):
        ablate(out=tmp_path / "out", console=QUIET, **change(study))


def test_a_claim_about_an_ability_that_is_not_asked_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    claim = replace(study.claims[0], abilities=("warm", "hot"))
    with pytest.raises(UserError, match="claims something of the ability 'hot'; colours has warm, cold"):
        ablate(replace(study, claims=(claim,)), tmp_path / "out", console=QUIET)
    assert not list((tmp_path / "out").glob("*/exam-*"))


@dataclass(frozen=True)
class Forgetful:
    """Gives no score to "blue" where the question's number divides by four, as a judge that could not be read."""

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        unread = [one.text == "blue" and int(one.question.id[1:]) % 4 == 0 for one in answers]
        return [Grade(one, None if missing else float(one.text == "red")) for one, missing in zip(answers, unread, strict=True)]


def test_differences_are_of_the_same_questions_where_some_have_no_score(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    study = replace(study, task=Colours(grader=Forgetful()))
    found = ablate(study, tmp_path / "out", console=QUIET)
    none, much = found.of("asked")
    assert (none.means["overall"].value, much.means["overall"].value) == (0.0, 1.0)
    assert none.by_seed == (0.0, 0.0, 0.0)
    assert none.differences["warm"].value == -1.0  # questions 2, 6 and 10 of six
    assert [one.mark for one in found.claims] == ["holds", "does not hold"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plan", "--arm", "r1"], "--arm: says how to train"),
        (["--plan", "--quick"], "--quick: says"),
        (["--report", "--steps", "0.5", "--reuse", "."], "--reuse, --steps: says"),
    ],
)
def test_what_says_how_to_train_is_refused_where_nothing_is_trained(options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["ablate", "training", *options])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)


def test_a_plan_is_of_the_length_that_the_folder_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, seeds = list[Study](), list[int]()
    monkeypatch.setattr(ablation_plan, "show_plan", lambda study, _, count, *__: (planned.append(study), seeds.append(count)))
    (tmp_path / "study.json").write_text(json.dumps({"study": "training", "share": 0.5, "quick": False}))
    for options in (["--out", str(tmp_path)], ["--out", str(tmp_path), "--steps", "0.25"], ["--out", str(tmp_path / "new")]):
        assert CliRunner().invoke(app, ["ablate", "training", "--plan", *options]).exit_code == 0
    assert [study.arm("r1").stages[0].steps for study in planned] == [600, 300, 1200]
    (tmp_path / "study.json").write_text(json.dumps({"study": "training", "share": 0.5, "quick": True}))
    assert CliRunner().invoke(app, ["ablate", "training", "--plan", "--out", str(tmp_path)]).exit_code == 0
    assert seeds == [3, 3, 3, 1]
    with pytest.raises(UserError, match="holds the study training, not data; give another --out"):
        CliRunner().invoke(app, ["ablate", "data", "--plan", "--out", str(tmp_path)], catch_exceptions=False)


def test_a_damaged_study_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study.json: damaged"):
        ablate(guesses(none=0.0, much=1.0), tmp_path, console=QUIET)


def test_what_is_wrong_with_an_arm_names_it(tmp_path: Path) -> None:
    study = Study("s", "", (Arm("one", "", (lesson(),)),))
    with pytest.raises(UserError, match="arm one, seed 0: no data"):
        ablate(study, tmp_path / "out", console=QUIET)


MINI = """
from dataclasses import replace
from mplug_owl.experiments.studies import instruct, pretrain
from mplug_owl.experiments.study import Arm, Study
def study():
    first, second = (replace(stage, steps=8, batch=4, micro_batch=2) for stage in (pretrain(), instruct()))
    return Study("mini", "Does it resume?", (Arm("r1", "one", (first,)), Arm("r5", "both", (first, second))), questions=2)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "mini.py").write_text(MINI)
    study = find(f"{tmp_path}/mini.py:study")
    words = [sys.executable, "-m", "mplug_owl", "ablate", f"{tmp_path}/mini.py:study", "--seeds", "2", "--out"]
    began = time.monotonic()
    subprocess.run([*words, str(tmp_path / "whole")], check=True, capture_output=True)
    took, random, killed, rounds = time.monotonic() - began, Random(1), 0, 0
    whole = gather(study, tmp_path / "whole", range(2))
    assert whole.missing == 0
    while killed < 20:
        folder, rounds = tmp_path / f"killed-{rounds}", rounds + 1
        while killed < 20:
            process = subprocess.Popen([*words, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(random.uniform(0.1, 0.6) * took)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        subprocess.run([*words, str(folder)], check=True, capture_output=True)
        assert gather(study, folder, range(2)).rows == whole.rows
