"""Tasks for lmms-eval: the questions that `owl eval` asks, in their turns, graded alike."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageChops

from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.tasks.owleval import OwlEval
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.integrations import lmms_tasks
from mplug_owl.integrations.lmms_tasks import answered, correct, main, messages, write_answers, write_tasks
from tests.eval.owleval import folder_of


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_drawn_worlds_questions_are_those_of_owl_eval(tmp_path: Path) -> None:
    world = DrawnWorld()
    names = write_tasks(world, world.conditions[0], tmp_path, limit=24, tokens=48)
    assert names == ["owl_scenes_seen", "owl_scenes_seen_dialogues"]
    asked = {question.id: question for question in world.questions("seen", 4, 0)}
    documents = [row for name in names for row in rows(tmp_path / f"{name}.jsonl")]
    assert {row["question_id"] for row in documents} == set(asked)
    for row in documents:
        question = asked[row["question_id"]]
        assert row["turns"] == [words for words, _ in question.turns]
        assert row["target"] == question.target
        assert question.picture is not None
        assert not ImageChops.difference(Image.open(row["file"]).convert("RGB"), question.picture().convert("RGB")).getbbox()
    for name in names:
        text = (tmp_path / f"{name}.yaml").read_text("utf-8")
        functions = [word.removeprefix("owl_tasks.") for word in text.split() if word.startswith("owl_tasks.")]
        assert {"pictures", "words", "messages"} < set(functions)
        assert all(callable(getattr(lmms_tasks, function)) for function in functions)
        assert str((tmp_path / f"{name}.jsonl").resolve()) in text


def test_a_dialogue_goes_on_with_the_models_own_answers(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    document = {"file": str(tmp_path / "one.png"), "turns": ["What?", "Where?"], "target": "left"}
    (first,) = messages(document)
    assert [part["type"] for part in first["content"]] == ["image", "text"]
    chat, ended, said, _ = messages(document, round_idx=1, previous_output=["a ball"], previous_round_info=None)
    assert (ended, said) == (False, ["a ball"])
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]
    assert [message["content"][-1]["text"] for message in chat] == ["What?", "a ball", "Where?"]
    assert sum(part["type"] == "image" for message in chat for part in message["content"]) == 1
    assert messages(document, round_idx=2, previous_output=["a ball", "left"])[1] is True
    assert correct(document, [["a ball", "left."]]) == {"exact_match": 1.0}
    assert correct(document, [["left", "right"]]) == {"exact_match": 0.0}
    assert correct(document, ["left "]) == {"exact_match": 1.0}


def test_answers_to_owleval_come_back_as_a_file_that_owl_eval_reads(tmp_path: Path) -> None:
    released = tmp_path / "owleval"
    released.mkdir()
    task = OwlEval(folder_of(released))
    told = SimpleNamespace(output_path=str(tmp_path / "out"), model="mplug_owl", model_args="pretrained=owl-tiny,dtype=auto")
    for condition in task.conditions:
        for name in write_tasks(task, condition, tmp_path / "tasks", limit=None, tokens=8):
            documents = rows(tmp_path / "tasks" / f"{name}.jsonl")
            said = [[[f"{words}!" for words in row["turns"]]] for row in documents]
            made = [answered(row, answers)["answers"] for row, answers in zip(documents, said, strict=True)]
            assert write_answers(made, told) == len(documents)
    whole = tmp_path / "answers.jsonl"
    whole.write_text("".join(path.read_text("utf-8") for path in sorted((tmp_path / "out").glob("answers-*.jsonl"))), "utf-8")
    answers = read_answers(whole, task)
    assert len(answers) == sum(len(task.questions(one.split)) for one in task.conditions)
    for answer in answers:
        assert answer.model == "owl-tiny"
        assert answer.turns == tuple(f"{words}!" for words, _ in answer.question.turns)


def test_answers_that_cannot_be_written_end_lmms_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would print the exception and exit as if all went well."""
    (tmp_path / "out").write_text("")
    told = SimpleNamespace(output_path=str(tmp_path / "out"), model="mplug_owl", model_args="")
    with pytest.raises(SystemExit) as ended:
        write_answers([{"split": "single", "earlier": []}], told)
    assert ended.value.code == 74
    assert "could not be written" in capsys.readouterr().err


def test_a_command_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lmms_tasks", "scenes", str(tmp_path), "--limit", "6"])
    main()
    assert capsys.readouterr().out.startswith("owl_scenes_seen")
    monkeypatch.setattr("sys.argv", ["lmms_tasks", "owleval", str(tmp_path), "--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "expected OwlEval's folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["lmms_tasks", "scenes", str(tmp_path / "file"), "--limit", "6"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 74
    assert "could not be written" in capsys.readouterr().err


def test_pictures_of_other_data_are_not_shown(tmp_path: Path) -> None:
    world = DrawnWorld()
    (name,) = write_tasks(world, world.conditions[0], tmp_path, limit=1, tokens=8)
    (row,) = rows(tmp_path / f"{name}.jsonl")
    drawn = Image.open(row["file"]).convert("RGB")
    Image.new("RGB", drawn.size).save(row["file"])
    write_tasks(world, world.conditions[0], tmp_path, limit=1, tokens=8)
    assert not ImageChops.difference(Image.open(row["file"]).convert("RGB"), drawn).getbbox()
