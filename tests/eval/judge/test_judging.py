"""Judging resumes where it was cut off: no grade is lost and none is given twice, whatever the judge does."""

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.judge.judge import Judge
from mplug_owl.eval.judge.judging import Judging, cost, first_questions, judge_exam, judging_in
from mplug_owl.eval.judge.reply_cache import ReplyCache
from tests.eval.judge.test_judge import Stub, answers
from tests.eval.quiz import CONDITIONS, Quiz, question


def silent(what: str, count: int, items: Iterable) -> Iterable:
    return items


def exam(count: int = 4) -> Exam:
    two = [Answer(question(number), CONDITIONS[0], (f"another {number}",), "two") for number in range(count)]
    return Exam(Quiz(), (*answers(count), *two, Answer(question(9), CONDITIONS[0], ("",), "two")))


def judged(stub: Stub, folder: Path, wanted: Judging = Judging(pairs=True, sample=3), asked: Exam | None = None):  # noqa: B008
    judge = Judge(stub, "stub", ReplyCache(folder / "replies.jsonl"))
    return judge_exam(judge, asked or exam(), folder, wanted, silent)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Compares(Stub):
    """A stub that grades and compares: its reply has both last lines."""

    def __init__(self, fails_after: int | None = None) -> None:
        super().__init__("GRADE: B\nBETTER: 1", fails_after)


def test_grades_audit_and_pairs_are_written(tmp_path: Path) -> None:
    grades, pairs = judged(Compares(), tmp_path)
    shown = Counter((row["shown"], row["round"]) for row in rows(tmp_path / "grades.jsonl"))
    assert shown == {("picture", 0): 9, ("picture", 1): 3, ("removed", 0): 3, ("exchanged", 0): 3}
    assert len(grades) == 18
    assert [pair.verdict for pair in pairs] == ["tie"] * 4
    assert sum(row["grade"] is None for row in rows(tmp_path / "grades.jsonl")) == 1  # the empty answer


def test_a_second_run_asks_nothing_and_writes_nothing(tmp_path: Path) -> None:
    judged(Compares(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stub = Compares()
    judged(stub, tmp_path)
    assert stub.heard == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_grades_that_were_lost_come_from_the_cache(tmp_path: Path) -> None:
    judged(Compares(), tmp_path)
    (tmp_path / "grades.jsonl").unlink()
    (tmp_path / "pairs.jsonl").unlink()
    stub = Compares()
    grades, pairs = judged(stub, tmp_path)
    assert (len(grades), len(pairs), stub.heard) == (18, 4, [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), max_size=8), st.lists(st.integers(0, 60), max_size=8))
def test_cut_off_anywhere_it_resumes(failures: list[int], cuts: list[int]) -> None:
    """The judge fails after so many replies, and a crash cuts so many bytes off the last lines of the files."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for failure, cut in zip(failures, cuts, strict=False):
            with suppress(UserError):
                judged(Compares(failure), folder)
            for path in folder.glob("*.jsonl"):
                last = path.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
                path.write_bytes(path.read_bytes()[: path.stat().st_size - min(cut, len(last))])
        grades, pairs = judged(Compares(), folder)
        assert (len(grades), len(pairs)) == (18, 4)
        written = [
            tuple(row[name] for name in ("model_id", "question_id", "round", "shown")) for row in rows(folder / "grades.jsonl")
        ]
        assert len(written) == len(set(written)) == 18
        compared = [(row["question_id"], row["first"], row["second"]) for row in rows(folder / "pairs.jsonl")]
        assert len(compared) == len(set(compared)) == 4
        keys = [row["key"] for row in rows(folder / "replies.jsonl")]
        assert len(keys) == len(set(keys))


def test_others_grades_in_the_file_stay(tmp_path: Path) -> None:
    person = {"question_id": question(0).id, "model_id": "one", "grade": "D", "grader": "ann", "kind": "person"}
    (tmp_path / "grades.jsonl").write_text(json.dumps(person) + "\n")
    grades, _ = judged(Compares(), tmp_path, Judging())
    assert Counter(grade.grader for grade in grades) == {"ann": 1, "stub": 9}


def test_an_older_prompts_grades_are_given_anew(tmp_path: Path) -> None:
    judged(Compares(), tmp_path, Judging())
    path = tmp_path / "grades.jsonl"
    older = {'"prompt": 1': '"prompt": 0', '"grade": "B", "score": 1.0': '"grade": "D", "score": 0.0'}
    for now, then in older.items():
        assert now in path.read_text()
        path.write_text(path.read_text().replace(now, then))
    grades, _ = judged(Compares(), tmp_path, Judging())
    assert {grade.letter for grade in grades} == {"B", None}
    assert len(rows(path)) == 18


def test_a_judge_that_was_trained_on_is_another_one(tmp_path: Path) -> None:
    """Its name says nothing of that, and what it graded before would be shown as its own of today."""
    old, new = (Judge(Stub("GRADE: B"), "runs/judge", weights=weights) for weights in ("old", "new"))
    for _ in range(2):
        grades, _ = judge_exam(old, exam(), tmp_path, Judging(), silent)
    assert {grade.details["weights"] for grade in grades} == {"old"}
    with pytest.raises(UserError, match=r"grades\.jsonl: the grades there are of other weights of runs/judge; give another"):
        judge_exam(new, exam(), tmp_path, Judging(), silent)


def test_a_limit_is_of_questions_and_not_of_answers() -> None:
    few = first_questions(exam().answers, 2)
    assert [(answer.model, answer.question.id) for answer in few] == [
        (model, question(number).id) for model in ("one", "two") for number in (0, 1)
    ]
    assert len(first_questions(exam().answers, None)) == 9


def test_two_judges_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with judging_in(tmp_path), pytest.raises(UserError, match="another judge"), judging_in(tmp_path):
        pass
    with judging_in(tmp_path):
        pass


def test_what_it_cost() -> None:
    class Usage:
        prompt_tokens, completion_tokens = 2_000_000, 500_000

    assert cost(Usage(), None, None) == "2,000,000 tokens read and 500,000 written in this run"
    assert cost(Usage(), 0.5, 2.0).endswith("2.00 at the given prices")
    assert cost(None, None, None).startswith("0 tokens")
