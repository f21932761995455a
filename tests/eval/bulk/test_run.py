"""Exactly one answer a question, in the order of the data: after kills, by several processes, with records that are damaged."""

import json
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_owl.chat import Decoding
from mplug_owl.errors import RefusedConversationError, UserError
from mplug_owl.eval.bulk import on_ray
from mplug_owl.eval.bulk import parts as parts_module
from mplug_owl.eval.bulk import run as run_module
from mplug_owl.eval.bulk.asking import ask_all
from mplug_owl.eval.bulk.parts import AnswerSettings, Parts
from mplug_owl.eval.bulk.run import AnswerJob, answer_all
from mplug_owl.eval.lines import AppendedLines
from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.tasks.from_data import FromData
from mplug_owl.model.kernel_caches import ANSWERING
from tests.eval.bulk.parrot import Parrot
from tests.tiny import picture

COUNT = 23


@pytest.fixture
def job(tmp_path: Path) -> AnswerJob:
    picture(0).save(tmp_path / "one.png")
    rows = [{"image": "one.png", "question": f"What is {number}?", "answer": "?"} for number in range(COUNT)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AnswerJob("http://nobody/v1#parrot", f"questions:{tmp_path}/questions.jsonl", tmp_path / "answers.jsonl", batch=2)


def rows(job: AnswerJob) -> list[dict]:
    return [json.loads(line) for line in job.out.read_text("utf-8").splitlines()]


def check(job: AnswerJob, count: int = COUNT) -> None:
    found = rows(job)
    assert [row["record"] for row in found] == list(range(1, count + 1))
    for row in found:
        assert row["question"] == f"What is {row['record'] - 1}?"
        assert row["answer"] == f"{row['question']}, 1"
        assert row["question_id"] == str(row["record"])
        assert row["model_id"] == "parrot"
    assert sorted(path.name for path in job.out.with_name("answers.jsonl.run").glob("*.json*")) == [
        "bad.jsonl",
        "settings.json",
    ]


def in_another_process(run: Callable[[], object]) -> int:
    """The signal that ended it, 0 where it ended by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads of the tests' are not used there
        child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_again_and_again(job: AnswerJob) -> None:
    """SIGKILL, to one process or to one of two, at several answers; then half a line, as a dying disk leaves it."""
    for dies, rank, processes in ((1, 0, 1), (3, 1, 2), (0, 0, 2), (2, 0, 1), (4, 1, 3)):
        shared = replace(job, rank=rank, processes=processes)
        assert in_another_process(lambda shared=shared, dies=dies: answer_all(shared, Parrot(dies))) == -signal.SIGKILL
        assert not job.out.exists()
    parts = sorted(job.out.with_name("answers.jsonl.run").glob("part-*.jsonl"))
    assert len(parts) == 2
    written = sum(len(part.read_text().splitlines()) for part in parts)
    assert written == 10
    with parts[0].open("a") as file:
        file.write('{"record": 5, "answer": "half')
    asked = Parrot()
    assert answer_all(job, asked) == job.out
    assert len(asked.asked) == COUNT - written
    check(job)
    before = job.out.stat().st_mtime_ns
    answer_all(job, Parrot(0))  # which would die if anything were asked
    assert job.out.stat().st_mtime_ns == before


def test_processes_share_the_work_and_the_last_one_joins(job: AnswerJob) -> None:
    asked = []
    for rank in (2, 0, 1):
        assert not job.out.exists()
        answer_all(replace(job, rank=rank, processes=3), parrot := Parrot())
        asked.append(len(parrot.asked))
    assert sorted(asked) == [7, 8, 8]
    check(job)


def test_nobody_joins_while_another_writes_or_writes_the_same_part(job: AnswerJob) -> None:
    parts = Parts(job.out, job.settings(COUNT))
    with parts.written_by(1):
        answer_all(job, Parrot())
        assert not job.out.exists()
        with pytest.raises(UserError, match="at work on it"):
            answer_all(replace(job, rank=1, processes=2), Parrot())
    assert parts.join() is not None
    check(job)


def test_damaged_records_are_listed_and_tried_again(job: AnswerJob, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One that is no record, one without its picture, and one whose picture cannot be opened, which is found out late."""
    lines = (tmp_path / "questions.jsonl").read_text().splitlines()
    whole = list(lines)
    lines[3] = "{"
    lines[5] = lines[5].replace("one.png", "none.png")
    lines[6] = lines[6].replace("one.png", "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "one.png").read_bytes()[:60])
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    answer_all(job, Parrot())
    assert [row["record"] for row in rows(job)] == [number for number in range(1, COUNT + 1) if number not in (4, 6, 7)]
    bad = [json.loads(line) for line in (tmp_path / "answers.jsonl.run" / "bad.jsonl").read_text().splitlines()]
    assert [(row["record"], row["reason"].partition(":")[0]) for row in bad] == [
        (4, "questions.jsonl, line 4"),
        (6, "questions.jsonl, line 6"),
        (7, "questions.jsonl, line 7"),
    ]
    told = capsys.readouterr().err
    assert "3 records have no answer" in told
    assert "20 answers" in told
    (tmp_path / "questions.jsonl").write_text("\n".join(whole) + "\n")
    answer_all(job, asked := Parrot())
    assert len(asked.asked) == 3
    check(job)


def test_all_of_it_damaged_is_an_error(job: AnswerJob, tmp_path: Path) -> None:
    (tmp_path / "one.png").unlink()
    with pytest.raises(UserError, match="none of its 23 records could be asked"):
        answer_all(job, Parrot())


def test_other_settings_data_or_files_are_refused(job: AnswerJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_all(job, Parrot())
    for other, words in (
        (replace(job, decoding=Decoding(max_new_tokens=7)), "decoding"),
        (replace(job, limit=4), "records 23 there and 4 now"),
        (replace(job, model="http://nobody/v1#jay"), "model parrot there and jay now"),
        (replace(job, dtype="int8"), "dtype auto there and int8 now"),
        (replace(job, out=tmp_path), "a folder"),
    ):
        with pytest.raises(UserError, match=words):
            answer_all(other, Parrot())
    (tmp_path / "mine.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="is there already"):
        answer_all(replace(job, out=tmp_path / "mine.jsonl"), Parrot())
    questions = tmp_path / "questions.jsonl"
    questions.write_text(questions.read_text().replace("What", "Which"))
    with pytest.raises(UserError, match="record 1 was asked 'What is 0"):
        answer_all(job, Parrot())
    monkeypatch.setattr(on_ray, "_ray", lambda: None)
    with pytest.raises(UserError, match="record 1 was asked 'What is 0"):
        on_ray.answer_on_ray(job)


def test_work_that_was_begun_before_the_precision_was_noted_goes_on(job: AnswerJob) -> None:
    answer_all(replace(job, rank=1, processes=2), Parrot())
    note = job.out.with_name("answers.jsonl.run") / "settings.json"
    values = json.loads(note.read_text())
    assert values.pop("dtype") == "auto"
    note.write_text(json.dumps(values))
    answer_all(replace(job, dtype="bfloat16"), Parrot())
    check(job)


def test_the_process_that_ends_after_the_file_was_made_says_what_came_of_it(
    job: AnswerJob, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two end at once, and the first of them joins the parts of both."""
    lines = (tmp_path / "questions.jsonl").read_text().splitlines()
    (tmp_path / "questions.jsonl").write_text("\n".join([*lines[:3], "{", *lines[4:]]) + "\n")
    both = [replace(job, rank=rank, processes=2) for rank in (0, 1)]
    answer_all(both[0], Parrot())
    answer_all(both[1], Parrot())
    capsys.readouterr()
    assert run_module.finish(both[0], Parts(job.out, job.settings(COUNT))) == job.out
    told = capsys.readouterr().err
    assert "1 records have no answer" in told
    assert "22 answers" in told
    assert "at work" not in told


def test_nobody_joins_the_parts_that_another_reads(job: AnswerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """All was answered when they were killed. They are begun again, and one joins the parts while another lists them."""
    monkeypatch.setattr(Parts, "join", lambda self: None)
    answer_all(job, Parrot())
    monkeypatch.undo()
    files, joined = Parts._files, list[object]()

    def listed(self: Parts) -> list[Path]:
        found = files(self)
        if not joined:
            joined.append(True)
            joined.append(Parts(job.out, job.settings(COUNT)).join())
        return found

    monkeypatch.setattr(Parts, "_files", listed)
    answer_all(job, Parrot(0))
    assert joined == [True, None]
    check(job)


def test_nobody_joins_the_parts_while_what_is_left_is_counted(job: AnswerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, answered = Parts(job.out, job.settings(COUNT)), Parts.answered

    def held(self: Parts) -> np.ndarray:
        with pytest.raises(Timeout):
            FileLock(self.folder / ".lock").acquire(blocking=False)
        return answered(self)

    monkeypatch.setattr(Parts, "answered", held)
    assert parts.count() == 0


def test_a_long_list_of_bad_records_is_not_read_again_for_each(job: AnswerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Lines(AppendedLines):
        def __init__(self, path: Path, sync_seconds: float) -> None:
            opened.append(path)
            super().__init__(path, sync_seconds)

    monkeypatch.setattr(parts_module, "AppendedLines", Lines)
    parts = Parts(job.out, job.settings(COUNT))
    with parts.written_by(0) as part:
        for record in range(1, 6):
            part.bad(record, "torn")
    assert [path.name for path in opened] == ["part-00000.jsonl", "bad-00000.jsonl"]
    assert len(parts._bad()) == 5


def test_kernels_kept_while_a_data_set_is_answered_are_few(job: AnswerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(run_module, "bound_kernel_caches", kept.append)
    job.answerer()
    assert kept == [ANSWERING]


def test_the_file_is_on_the_disk_before_its_parts_are_removed(job: AnswerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, bool]] = []

    def sync(number: int) -> None:
        parts = list(job.out.with_name("answers.jsonl.run").glob("part-*.jsonl"))
        synced.append((os.fstat(number).st_ino, bool(parts)))

    monkeypatch.setattr(parts_module.os, "fsync", sync)
    answer_all(job, Parrot())
    assert (job.out.stat().st_ino, True) in synced


def test_a_file_that_an_editor_saved_without_its_last_end_is_done(job: AnswerJob, capsys: pytest.CaptureFixture) -> None:
    answer_all(job, Parrot())
    job.out.write_bytes(job.out.read_bytes().rstrip())
    answer_all(job, Parrot())
    check(job)
    assert "others are at work" not in capsys.readouterr().err


def test_an_exam_grades_the_file(job: AnswerJob) -> None:
    answer_all(job, Parrot())
    task = FromData(job.source)
    answers = read_answers(job.out, task)
    assert [answer.question.id for answer in answers] == [str(number + 1) for number in range(COUNT)]
    assert {answer.model for answer in answers} == {"parrot"}


def test_ids_of_the_data_are_kept_and_made_unlike(job: AnswerJob, tmp_path: Path) -> None:
    names = ["a", "b", "a", "c"]
    rows_ = [{"question_id": name, "image": "one.png", "question": f"What is {at}?"} for at, name in enumerate(names)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_))
    answer_all(job, Parrot())
    assert [row["question_id"] for row in rows(job)] == ["a", "b", "a, record 3", "c"]


def test_a_question_that_another_model_refuses_keeps_nobody_from_an_answer(job: AnswerJob) -> None:
    class Strict(Parrot):
        def arriving(self, conversations, decoding):
            for talk in conversations:
                if talk.messages[-1].text in ("What is 3?", "What is 20?"):
                    raise RefusedConversationError("too long")
            yield from super().arriving(conversations, decoding)

    answer_all(job, Strict())
    assert [row["record"] for row in rows(job)] == [number for number in range(1, COUNT + 1) if number not in (4, 21)]
    bad = [json.loads(line) for line in (job.out.with_name("answers.jsonl.run") / "bad.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in bad] == ["questions.jsonl, line 4: too long", "questions.jsonl, line 21: too long"]


def test_a_question_that_is_too_long_keeps_nobody_from_an_answer(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"question": words}) + "\n" for words in ("What is 3 plus 4?", "word " * 5000, "What is 1 plus 1?"))
    )
    job = AnswerJob("owl-tiny", f"questions:{tmp_path}/q.jsonl", tmp_path / "a.jsonl", decoding=Decoding(8), device="cpu")
    answer_all(job)
    assert [row["record"] for row in rows(job)] == [1, 3]
    assert "positions" in (tmp_path / "a.jsonl.run" / "bad.jsonl").read_text()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), max_size=14), min_size=1, max_size=4), st.integers(0, 3))
def test_whatever_parts_hold_one_row_a_record_is_joined(
    tmp_path_factory: pytest.TempPathFactory, held: list, torn: int
) -> None:
    """Any records in any parts, twice or not at all, with a torn last line: joined where all are there, and only then."""
    out = tmp_path_factory.mktemp("parts") / "answers.jsonl"
    parts = Parts(out, AnswerSettings("x", 12, None, None, "m", "", Decoding()))
    for rank, numbers in enumerate(held):
        with parts.written_by(rank) as part:
            for number in numbers:
                part.answer(number + 1, str(number + 1), "q", f"{number} of {rank}")
        if torn == rank:
            with (out.with_name("answers.jsonl.run") / f"part-{rank:05}.jsonl").open("a") as file:
                file.write('{"record": 1, "qu')
    known = {number for numbers in held for number in numbers}
    assert set(np.flatnonzero(parts.answered()).tolist()) == known
    joined = parts.join()
    assert (joined is not None) == (len(known) == 12)
    if joined is not None:
        assert [json.loads(line)["record"] for line in out.read_text().splitlines()] == list(range(1, 13))


def test_a_transient_fault_of_a_picture_is_no_bad_record(job: AnswerJob) -> None:
    """What a model calls damaged and everybody else can open ends the work: nothing is set apart without a reason."""
    from mplug_owl.errors import BadSample

    class Blind(Parrot):
        def arriving(self, conversations, decoding):
            raise BadSample("no")
            yield

    with pytest.raises(BadSample):
        list(ask_all(Blind(), job.questions(), [0, 1], Decoding(), 2))
