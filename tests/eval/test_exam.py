"""`owl eval`: its folder belongs to one exam, resumes, and says what comes next."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mplug_owl.errors import UserError
from mplug_owl.eval import exam, tasks
from mplug_owl.eval.exam_folder import ExamSettings, fingerprint, open_exam, read_exam, read_settings
from mplug_owl.eval.judge.judging import judging_in
from mplug_owl.eval.rating.raters import alone
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.eval.tasks.text import TextQuestions
from tests.eval.owleval import folder_of
from tests.eval.test_answers_file import RELEASED, write

SETTINGS = ExamSettings("owleval", "there", "owl", "abc", 5, 0, 512)


def test_a_folder_belongs_to_one_exam(tmp_path: Path) -> None:
    with open_exam(tmp_path / "exam", SETTINGS):
        assert read_settings(tmp_path / "exam") == SETTINGS
    with open_exam(tmp_path / "exam", SETTINGS) as kept:
        assert kept.count == 0
    for change, problem in (
        ({"limit": 6}, "another exam, limit 5 there and 6 now"),
        ({"weights": "def"}, "the answers there are of other weights"),
        ({"model": "other"}, "another exam, model owl there and other now"),
    ):
        with pytest.raises(UserError, match=problem), open_exam(tmp_path / "exam", replace(SETTINGS, **change)):
            pass
    with open_exam(tmp_path / "exam", replace(SETTINGS, limit=6), fresh=True):
        assert read_settings(tmp_path / "exam").limit == 6


def test_an_exam_that_begins_anew_keeps_what_people_graded(tmp_path: Path) -> None:
    for number in (1, 2):
        with open_exam(tmp_path, SETTINGS, fresh=True):
            assert not (tmp_path / f"former-{number}").exists()
        for name in ("answers.jsonl", "grades.jsonl", "pairs.jsonl", "passport.json", "notes.json"):
            (tmp_path / name).write_text(f"{name} {number}")
    with open_exam(tmp_path, replace(SETTINGS, limit=6), fresh=True) as kept:
        assert kept.count == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock" and path.name != ".lock") == [
        "answers.jsonl",
        "exam.json",
        "former-1",
        "former-2",
        "notes.json",
    ]
    for number in (1, 2):
        assert read_settings(tmp_path / f"former-{number}") == SETTINGS
        for name in ("answers.jsonl", "grades.jsonl", "pairs.jsonl", "passport.json"):
            assert (tmp_path / f"former-{number}" / name).read_text() == f"{name} {number}"


def test_an_exam_does_not_begin_anew_while_its_answers_are_graded(tmp_path: Path) -> None:
    """Grades of the former answers would go on into a new file."""
    (tmp_path / "grades.jsonl").write_text("")
    for grading in (alone(tmp_path / "grades.jsonl"), judging_in(tmp_path)):
        with grading, pytest.raises(UserError, match="its answers are being graded"), open_exam(tmp_path, SETTINGS, fresh=True):
            pass
    with open_exam(tmp_path, SETTINGS, fresh=True):
        assert (tmp_path / "former-1" / "grades.jsonl").exists()


def test_exams_of_other_data_do_not_stand_in_one_table_unless_it_is_said(tmp_path: Path) -> None:
    """Ids are alike where questions are not: the second exam's answers would stand under the first one's questions."""
    for name, words in (("one", "What is one?"), ("two", "Who was it?")):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps({"question": words}) + "\n")
        with open_exam(tmp_path / name, ExamSettings("text", str(file), name)) as kept:
            (asked,) = TextQuestions(file).questions("all")
            kept.add(asked, TextQuestions.conditions[0], ["Reply."])
    entries = [str(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(UserError, match=r"the exams read .*one\.jsonl and .*two\.jsonl; .* --data names one"):
        read_exam(entries)
    assert read_exam(entries, data=tmp_path / "one.jsonl").models == ("one", "two")


def test_two_exams_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with (
        open_exam(tmp_path, SETTINGS),
        pytest.raises(UserError, match="another exam is writing there"),
        open_exam(tmp_path, SETTINGS),
    ):
        pass


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    whole = {"task": "owleval", "data": None, "model": "owl"}
    for text in ("{", "[]", '{"task": "owleval"}', json.dumps({**whole, "limit": "5"}), json.dumps({**whole, "data": 5})):
        (tmp_path / "exam.json").write_text(text)
        with pytest.raises(UserError, match=r"exam\.json: damaged"):
            read_settings(tmp_path)
    (tmp_path / "exam.json").unlink()
    (tmp_path / "answers.jsonl").write_text("")
    with pytest.raises(UserError, match=r"has answers but no exam\.json"), open_exam(tmp_path, SETTINGS):
        pass


def test_weights_that_changed_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = fingerprint(tmp_path)
    assert first == fingerprint(tmp_path) != ""
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert fingerprint(tmp_path) != first
    assert fingerprint("OWNER/NAME") == ""


def test_a_file_of_answers_takes_the_exam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And stands beside another of its kind in one table, under names of one's own."""
    data, file = folder_of(tmp_path), write(tmp_path / "old.jsonl", RELEASED)
    for _ in range(2):  # the second time, everything is there
        folder = exam.run_exam(f"answers:{file}", OwlEval(data), data, out=tmp_path / "exam")
    printed = capsys.readouterr()
    assert "single-turn: 1 of 2 questions answered, 2.0 words in the mean" in printed.out
    assert "multi-turn: 2 of 3 questions answered" in printed.out
    assert f"owl rate {folder}" in printed.out
    assert "5 answers are there" in printed.err
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 5
    with pytest.raises(UserError, match="its answers are given; leave --quantize, --max-new-tokens out"):
        exam.run_exam(f"answers:{file}", OwlEval(data), data, out=tmp_path / "exam", quantize="nf4", max_new_tokens=9)
    write(file, [{**RELEASED[0], "answer": "something else"}, *RELEASED[1:]])
    with pytest.raises(UserError, match="another answer of old to question 1 than the file; give another --out, or --fresh"):
        exam.run_exam(f"answers:{file}", OwlEval(data), data, out=tmp_path / "exam")
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 5
    write(file, RELEASED)
    both = read_exam([str(folder), f"again={file}"], data=data)
    assert both.models == ("old", "again")
    assert [one.turns for one in both.answers[:5]] == [one.turns for one in both.answers[5:]]
    with pytest.raises(UserError, match="a second system called old; give it another name"):
        read_exam([str(folder), str(file)], data=data)
    with pytest.raises(UserError, match=r"owleval: its questions and pictures are not part of this package"):
        read_exam([str(file)])


def test_drawn_exams_of_other_lengths_do_not_stand_in_one_table(tmp_path: Path) -> None:
    """Their questions have the same ids and are others: a judge would compare answers to different questions."""
    world = DrawnWorld()
    for limit in (2, 3):
        with open_exam(tmp_path / str(limit), ExamSettings("scenes", None, f"model {limit}", limit=limit)) as kept:
            for question in world.questions("words", limit, 0):
                kept.add(question, world.conditions[4], ["red"] * len(question.turns))
    assert read_exam([str(tmp_path / "2")]).models == ("model 2",)
    with pytest.raises(UserError, match=r"its question words-0-\d+ is another one than in the entries before"):
        read_exam([str(tmp_path / "2"), str(tmp_path / "3")])


@pytest.mark.parametrize(
    ("model", "name", "weights"),
    [
        ("http://localhost:8000/v1#llava-13b", "llava-13b", ""),
        ("hf:OWNER/NAME", "OWNER/NAME", ""),
        ("OWNER/NAME", "OWNER/NAME", ""),
    ],
)
def test_models_elsewhere_are_called_by_their_last_name(model: str, name: str, weights: str) -> None:
    assert exam.model_name(model) == name
    assert exam.weights_digest(model) == weights
    assert exam._beside(model) == Path("runs")


def test_a_run_is_called_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "talk" / "model").mkdir(parents=True)
    (tmp_path / "talk" / "model" / "config.json").write_text("{}")
    for path in (tmp_path / "talk" / "model", tmp_path / "talk"):
        assert exam.model_name(str(path)) == "talk"
        assert exam._beside(str(path)) == tmp_path
    assert exam.weights_digest(str(tmp_path / "talk")) == fingerprint(tmp_path / "talk" / "model")


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="no task 'sceens'; there is scenes, owleval"):
        tasks.find("sceens")


@pytest.mark.slow
def test_an_exam_killed_twenty_times_asks_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL at any instant of `owl eval`, and the same command again; 160 questions of the drawn world."""
    command = [
        sys.executable,
        "-m",
        "mplug_owl",
        "eval",
        "owl-tiny",
        "scenes",
        "--limit",
        "20",
        "--out",
        str(tmp_path / "exam"),
    ]
    drawn, kills = random.Random(0), 0
    wait = 4.0
    while kills < 20:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            process.wait(timeout=wait * drawn.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, problems = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), problems
        if process.returncode == 0:  # it had the time to end: less of it, and a new beginning
            (tmp_path / "exam" / "answers.jsonl").unlink()
            (tmp_path / "exam" / "exam.json").unlink()
            wait *= 0.8
        time.sleep(0.05)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    whole = subprocess.run([*command[:-1], str(tmp_path / "whole")], check=True, capture_output=True, text=True)
    table = re.compile(r"[│┃].*")
    assert table.findall(done.stdout) == table.findall(whole.stdout) != []
    answers = [sorted((tmp_path / name / "answers.jsonl").read_text().splitlines()) for name in ("exam", "whole")]
    assert answers[0] == answers[1]
    keys = [tuple(json.loads(line)[name] for name in ("split", "mode", "question_id", "question")) for line in answers[0]]
    assert len(keys) == len(set(keys))
    assert asdict(read_settings(tmp_path / "exam"))["limit"] == 20
