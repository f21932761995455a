"""`owl judge` against a server that misbehaves, dies, or is cut off: each grade is on the disk once."""

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import mplug_owl_cli
from mplug_owl.errors import UserError
from mplug_owl.eval.judge.judging import Judging
from mplug_owl.eval.judge.run import JudgeRun, judge_name, run_judge
from mplug_owl.eval.judge.run import _identity as identity
from tests.chat.server import Behaviour, Server, cuts, refuses, says, sends, serving
from tests.eval.owleval import folder_of

pytest.importorskip("openai", reason="judges on servers need the extra `eval`")

GOOD = says("I see one colour.\nGRADE: B\nBETTER: 1")


def always_good(question: str, tried: int) -> Behaviour:
    return GOOD


@pytest.fixture
def entries(tmp_path: Path) -> tuple[str, ...]:
    """Two systems' answers to a small OwlEval: five questions in both halves together, one of them unanswered."""
    folder_of(tmp_path)
    for model in ("first", "second"):
        rows = [{"question_id": number, "answer": f"{model} {number}", "model_id": model} for number in (1, 2, 3, 4)]
        rows[3]["answer"] = "无法回溯" if model == "second" else rows[3]["answer"]
        (tmp_path / f"{model}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tuple(str(tmp_path / f"{model}.jsonl") for model in ("first", "second"))


def wanted(server: Server, entries: tuple[str, ...], tmp_path: Path, judging: Judging = Judging(), **more) -> JudgeRun:  # noqa: B008
    address = f"{server.address}?retries=6&timeout=20#parrot"
    return JudgeRun(address, entries, judging, data=tmp_path, out=tmp_path / "out", **more)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def grades_once(folder: Path) -> list[dict]:
    """The rows of grades.jsonl, of which no two are about the same."""
    found = rows(folder / "grades.jsonl")
    about = [tuple(row[name] for name in ("model_id", "split", "question_id", "round", "shown")) for row in found]
    assert len(set(about)) == len(about)
    return found


def test_a_server_sees_the_pictures_and_its_grades_are_shown_with_its_passport(
    entries: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(always_good) as server:
        folder = run_judge(wanted(server, entries, tmp_path, Judging(pairs=True, sample=10), price_in=1.0))
        shown = []
        for request in server.requests:
            ((message,), content) = request["messages"], request["messages"][0]["content"]
            assert (message["role"], request["temperature"]) == ("user", 0)
            urls = (
                [part["image_url"]["url"] for part in content if part["type"] == "image_url"] if type(content) is list else []
            )
            shown.append(len(urls))
            for url in urls:
                assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (40, 30)
        assert 0 < shown.count(0) < shown.count(1) == len(shown) - shown.count(0)  # without, where it was removed
        asked = len(server.requests)
    printed = capsys.readouterr()
    assert "OwlEval, multi-turn, graded by parrot" in printed.out
    assert "The judge's passport: parrot" in printed.out
    assert "tokens read" in printed.err
    found = grades_once(folder)
    assert len([row for row in found if row["shown"] == "picture" and row["round"] == 0]) == 10
    assert sum(row["grade"] is None for row in found) == 1
    assert [row["verdict"] for row in rows(folder / "pairs.jsonl")] == ["tie"] * 4
    assert json.loads((folder / "passport.json").read_text())["judge"] == "parrot"
    with serving(always_good) as server:
        run_judge(wanted(server, entries, tmp_path, Judging(pairs=True, sample=10)))
        assert server.requests == []
    assert asked > 0


def test_one_folder_of_an_exam_has_its_grades_in_it(entries: tuple[str, ...], tmp_path: Path) -> None:
    settings = {"task": "owleval", "data": str(tmp_path), "model": "first"}
    exam = tmp_path / "exam"
    exam.mkdir()
    (exam / "exam.json").write_text(json.dumps(settings))
    (exam / "answers.jsonl").write_text(Path(entries[0]).read_text())
    with serving(always_good) as server:
        assert run_judge(JudgeRun(f"{server.address}#parrot", (str(exam),), Judging(limit=1))) == exam
    assert len(grades_once(exam)) == 2  # a question of each half


FAULTS: list[Behaviour] = [refuses(500), refuses(429, Retry_After="0"), sends("junk"), cuts, says(None), refuses(503)]


def test_a_server_that_misbehaves_costs_no_grade(
    entries: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mplug_owl.chat.endpoint.LONGEST_BACKOFF", 0.01)
    draw = random.Random(0)

    def behave(question: str, tried: int) -> Behaviour:
        return draw.choice(FAULTS) if tried <= 2 else GOOD

    with serving(behave) as server:
        folder = run_judge(wanted(server, entries, tmp_path, Judging(sample=10)))
    assert [row["grade"] for row in grades_once(folder)].count("B") == len(grades_once(folder)) - 1


def test_a_server_that_dies_ends_with_an_error_and_what_was_graded_stays(
    entries: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mplug_owl.chat.endpoint.LONGEST_BACKOFF", 0.01)
    served: list[str] = []

    def behave(question: str, tried: int) -> Behaviour:
        served.append(question)
        return GOOD if len(served) <= 3 else refuses(500)

    words = ["owl", "judge", "ADDRESS", *entries, "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    with serving(behave) as server:
        words[2] = f"{server.address}?retries=1&concurrency=1#parrot"
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            mplug_owl_cli.main()
    assert left.value.code == 2
    assert "parrot" in capsys.readouterr().err
    assert [row["grade"] for row in grades_once(tmp_path / "out")].count("B") >= 3
    with pytest.raises(SystemExit) as left:  # nobody is there at all
        mplug_owl_cli.main()
    assert left.value.code == 2
    with serving(always_good) as server:
        folder = run_judge(wanted(server, entries, tmp_path))
    assert len(grades_once(folder)) == 10


def test_a_judge_that_never_gives_a_letter_is_an_error(entries: tuple[str, ...], tmp_path: Path) -> None:
    with serving(lambda question, tried: says("I would rather not.")) as server, pytest.raises(UserError, match="GRADE:"):
        run_judge(wanted(server, entries, tmp_path))
    assert {row["grade"] for row in grades_once(tmp_path / "out")} == {None}


def test_people_are_compared_with(
    entries: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mplug_owl.eval.judge.passport.PICTURES", 2)
    people = tmp_path / "people.jsonl"
    given = [
        {"question_id": number, "model_id": model, "split": "multi", "grade": letter, "kind": "person", "grader": "ann"}
        for model, letters in (("first", "ABC"), ("second", "BC"))
        for number, letter in zip((2, 3, 4), letters, strict=False)
    ]
    people.write_text("".join(json.dumps(row) + "\n" for row in given))
    with serving(always_good) as server:
        folder = run_judge(wanted(server, entries, tmp_path, people=(people,)))
    assert "Against people it finds 100% of 3 acceptable answers and 0% of 2 others" in " ".join(
        capsys.readouterr().out.split()
    )
    assert json.loads((folder / "passport.json").read_text())["errors"]["good"] == 3


def test_a_file_that_is_named_besides_counts_once(
    entries: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As people's, where its folder is the judge's own: its grades would count twice, and intervals be too narrow."""
    shown = []
    for people in ((), (tmp_path / "out" / "grades.jsonl",)):
        with serving(always_good) as server:
            run_judge(wanted(server, entries, tmp_path, people=people))
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("typed", "name"),
    [("http://localhost:1/v1?retries=2#gpt", "gpt"), ("hf:org/model", "org/model"), ("owl-tiny", "owl-tiny")],
)
def test_what_a_judge_is_called(typed: str, name: str) -> None:
    assert judge_name(typed) == name


def test_replies_are_kept_under_where_a_judge_is_and_its_weights(tmp_path: Path) -> None:
    assert identity("http://localhost:1/v1?retries=2#gpt") == identity("http://localhost:1/v1#gpt")
    assert identity("http://localhost:1/v1#gpt") != identity("http://localhost:2/v1#gpt")
    assert identity("hf:org/model") == "hf:org/model "  # its files are elsewhere
    (tmp_path / "weights").write_text("one")
    before = identity(f"hf:{tmp_path}")
    (tmp_path / "weights").write_text("other weights")
    assert identity(f"hf:{tmp_path}") != before
    assert len(identity("owl-tiny")) > len("owl-tiny ")
    assert len(identity("language:tiny-language")) > len("language:tiny-language ")  # one that grades words alone


@pytest.mark.slow
def test_killed_twenty_times_it_loses_no_grade_and_gives_none_twice(entries: tuple[str, ...], tmp_path: Path) -> None:
    """SIGKILL to the command itself at any moment, while its server misbehaves."""
    draw = random.Random(1)

    def behave(question: str, tried: int) -> Behaviour:
        time.sleep(draw.uniform(0, 0.4))
        return draw.choice(FAULTS) if draw.random() < 0.3 else GOOD

    out = tmp_path / "out"
    with serving(behave) as server:
        command = [
            sys.executable,
            "-m",
            "mplug_owl_cli",
            "judge",
            f"{server.address}?retries=20&concurrency=2#parrot",
            *entries,
        ]
        command += ["--data", str(tmp_path), "--out", str(out), "--pairs", "--audit", "--sample", "4"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        killed = 0
        while killed < 20:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before = len(server.requests)
            while process.poll() is None and len(server.requests) == before:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.3))
            if process.poll() is not None:  # it was done: begin anew, and keep its replies' file only
                assert process.returncode == 0
                (out / "grades.jsonl").unlink()
                (out / "replies.jsonl").unlink()
                continue
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = grades_once(out)
    assert len(found) == 10 + 3 * 4
    assert sum(row["grade"] is None for row in found) == 1
    assert len(rows(out / "pairs.jsonl")) == 4
    assert len({row["key"] for row in rows(out / "replies.jsonl")}) == len(rows(out / "replies.jsonl"))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
