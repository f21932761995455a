"""A session of grading: what it reads, what it warns of, and what its last lines say."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mplug_owl.errors import UserError
from mplug_owl.eval.exam import run_exam
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grades_file import key, read_grades
from mplug_owl.eval.rating import session
from mplug_owl.eval.rating.gold import GOLD, read_gold
from mplug_owl.eval.rating.raters import Raters, Summary
from mplug_owl.eval.rating.session import RatingSettings, closing, prepare, rate_answers, warnings
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl_cli import app
from tests.eval.rating import cards


@pytest.fixture
def exam(tmp_path: Path) -> Exam:
    return cards.exam(tmp_path / "exam")


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_grades_of_one_exam_lie_beside_its_answers(exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where owl judge and owl report look for them."""
    asked: list[RatingSettings] = []
    monkeypatch.setattr(session, "rate_answers", lambda exam, settings: asked.append(settings))
    folder, data = tmp_path / "taken", tmp_path / "exam"
    files = [str(data / f"{system}.jsonl") for system in cards.SYSTEMS]
    run_exam(f"answers:{files[0]}", OwlEval(data), data, out=folder)
    for entries in ([str(folder)], files[:1], [str(folder), files[1]]):
        done = CliRunner().invoke(app, ["rate", *entries, "--data", str(data)], catch_exceptions=False)
        assert done.exit_code == 0
    assert [settings.out for settings in asked] == [folder / "grades.jsonl", Path("grades.jsonl"), Path("grades.jsonl")]


def test_a_session_serves_everything_but_empty_answers_and_says_who_graded(
    exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = pytest.importorskip("mplug_owl.eval.rating.server", reason="the page is served by the extra `serve`")

    def served(raters: Raters, host: str, port: int, rater: str | None, started) -> None:
        assert (host, port, rater) == ("0.0.0.0", 7, "Anna")
        started("http://somewhere/")
        anna = raters.progress("anna")
        raters.grade(anna, anna.current.id, "B")

    monkeypatch.setattr(server, "serve", served)
    out = tmp_path / "grades.jsonl"
    rate_answers(exam, RatingSettings(out, rater="Anna", host="0.0.0.0", port=7, repeat=0.0))
    shown = capsys.readouterr()
    # 4 single-turn and 8 multi-turn questions, two systems, one of which gave one empty answer
    assert shown.out.splitlines() == [
        f"23 answers, 2 systems; grades go to {out}",
        "http://somewhere/ (Ctrl-C ends it)",
        "Anna: 1 graded, 22 left",
        "empty answers, not shown and without a grade: 1",
        str(out),
    ]
    assert "anybody who reaches this machine" in shown.err
    assert [grade.letter for grade in read_grades(out, "owleval", exam.answers)] == ["B"]


def test_a_limit_resumes_in_a_larger_one(exam: Exam, tmp_path: Path) -> None:
    few = prepare(exam, RatingSettings(tmp_path / "grades.jsonl", limit=6, repeat=0.0))
    anna = few.progress("anna")
    assert len(anna.items) == 6
    few.grade(anna, anna.current.id, "A")
    more = prepare(exam, RatingSettings(tmp_path / "grades.jsonl", limit=8, seed=0)).progress("anna")
    assert (len(more.graded), len([item for item in more.items if item.round == 0])) == (1, 8)
    # under another seed the answer is there as well, or not shown at all
    other = prepare(exam, RatingSettings(tmp_path / "grades.jsonl", seed=5)).progress("anna")
    assert list(other.graded.values()) == ["A"]


def test_gold_is_grades_of_answers_that_are_there(exam: Exam, tmp_path: Path) -> None:
    row = {"question_id": "1", "model_id": cards.SYSTEMS[1], "split": "multi", "mode": "picture", "grade": "D"}
    gold = lines(tmp_path / "gold.jsonl", row)
    known = (cards.SYSTEMS[1], "multi", "picture", "1")
    found = [prepare(exam, RatingSettings(tmp_path / "grades.jsonl", gold, limit=1, seed=seed)) for seed in range(4)]
    assert all(raters.gold == {known: "D"} for raters in found)
    assert all(known in map(key, raters.answers) for raters in found)
    assert {len(raters.answers) for raters in found} == {1, 2}  # on top of the limit, or the one that it chose


def test_gold_may_bring_its_own_answers(exam: Exam, tmp_path: Path) -> None:
    gold = lines(
        tmp_path / "gold.jsonl",
        {"question_id": 0, "answer": "A card.", "grade": "A", "split": "single"},
        {"question_id": 0, "answer": "Bananas.", "grade": "D", "split": "multi"},
        {"question_id": 3, "answer": "Nothing leads to it.", "grade": "D"},
    )
    added, known = read_gold(gold, exam.task, exam.answers)
    assert [(one.model, one.condition.split, one.text, known[GOLD, one.condition.split, "picture", "0"]) for one in added] == [
        (GOLD, "single", "A card.", "A"),
        (GOLD, "multi", "Bananas.", "D"),
    ]
    raters = prepare(exam, RatingSettings(tmp_path / "grades.jsonl", gold, repeat=0.0))
    anna = raters.progress("anna")
    assert len(anna.items) == 25
    for item in anna.items:
        raters.grade(anna, item.id, "D")
    assert raters.summary(anna).gold == (1, 2)
    assert len(read_grades(raters.path, "owleval", exam.answers)) == 23  # gold is nobody's
    assert prepare(exam, RatingSettings(raters.path)).progress("anna").waiting  # nor needed to resume


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": 0, "answer": "x", "grade": "A"}, {"question_id": 1, "grade": "A"}], "line 2: no answer"),
        ([{"question_id": 0, "answer": "x", "grade": "E"}], "line 1: grade is 'E'"),
        ([{"question_id": 0, "answer": "x"}], "line 1: grade is None"),
        ([{"question_id": 99, "answer": "x", "grade": "A"}], "question_id '99' is none of owleval's"),
        ([{"question_id": 0, "grade": "A"}], "fits 4 answers"),
    ],
)
def test_damaged_gold_is_an_error(exam: Exam, tmp_path: Path, rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_gold(lines(tmp_path / "gold.jsonl", *rows), exam.task, exam.answers)


@pytest.mark.parametrize("row", [{"model_id": "somebody else"}, {"answer": "On it.", "split": "multi"}])
def test_gold_that_knows_nothing_here_is_an_error(row: dict, exam: Exam, tmp_path: Path) -> None:
    """Nobody would be seen to pay attention, and nobody would know."""
    (tmp_path / "gold.jsonl").write_text(json.dumps({"question_id": 1, "grade": "A", **row}) + "\n")
    with pytest.raises(UserError, match=r"gold\.jsonl: knows the grade of no answer here"):
        prepare(exam, RatingSettings(tmp_path / "grades.jsonl", gold=tmp_path / "gold.jsonl"))


def test_answers_that_changed_since_are_an_error(exam: Exam, tmp_path: Path) -> None:
    row = {"question_id": "0", "model_id": cards.SYSTEMS[0], "split": "single", "grade": "D", "answer_digest": "0" * 16}
    with pytest.raises(UserError, match="has changed since it was graded"):
        prepare(exam, RatingSettings(lines(tmp_path / "grades.jsonl", row)))


def test_an_exam_of_empty_answers_is_an_error(exam: Exam, tmp_path: Path) -> None:
    silent = Exam(exam.task, tuple(answer for answer in exam.answers if not answer.text))
    with pytest.raises(UserError, match="every answer is empty"):
        prepare(silent, RatingSettings(tmp_path / "grades.jsonl"))


def test_answers_that_name_their_system_are_counted(exam: Exam) -> None:
    assert warnings(exam.answers) == []
    first = exam.answers[0]
    telling = type(first)(first.question, first.condition, ("I am Zebra Fish 7B.",), cards.SYSTEMS[0])
    assert warnings([first, telling]) == [
        f"answers that name the system that gave them ({cards.SYSTEMS[0]}), shown as they are: 1"
    ]


def test_the_last_lines() -> None:
    people = [Summary("anna", 3, 0, (1, 2), (0, 0)), Summary("ben", 1, 4, (0, 0), (2, 2))]
    assert closing(people, 0) == [
        "anna: 3 graded, 0 left, 1 of 2 graded the same twice",
        "ben: 1 graded, 4 left, 2 of 2 as the known grades",
    ]
    assert closing([], 0) == ["nobody has graded anything"]


def test_without_its_packages_it_says_what_to_install(exam: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mplug_owl.eval.rating.server", None)
    with pytest.raises(UserError, match=r"pip install 'mplug-owl\[serve\]'"):
        rate_answers(exam, RatingSettings(tmp_path / "grades.jsonl"))
