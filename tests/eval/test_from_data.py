"""Your own questions: every answer in the data is asked for as in training, and nothing is left out in silence."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import mplug_owl_cli
from mplug_owl import read
from mplug_owl.conversation import IMAGE_MARK, Conversation
from mplug_owl.errors import UserError
from mplug_owl.eval import tasks
from mplug_owl.eval.answer import ask, conversation
from mplug_owl.eval.exam import run_exam
from mplug_owl.eval.tasks.from_data import FromData
from tests.eval.quiz import Listener
from tests.tiny import picture

TURNS = [("What is it?", "A bus."), ("Which colour?", "Red."), ("Where?", "Here.")]
LLAVA = {
    "id": "bus",
    "image": "one.png",
    "conversations": [
        turn
        for number, (asked, reply) in enumerate(TURNS)
        for turn in (
            {"from": "human", "value": f"<image>\n{asked}" if number == 0 else asked},
            {"from": "gpt", "value": reply},
        )
    ],
}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Compare "}, {"type": "image", "image": "one.png"}]},
        {"role": "assistant", "content": "With what?"},
        {"role": "user", "content": [{"type": "image", "image": "two.png"}, {"type": "text", "text": "and this."}]},
        {"role": "assistant", "content": "Both are squares."},
    ]
}
RECORDS: dict[str, Mapping[str, Any]] = {
    "llava": LLAVA,
    "chat": CHAT,
    "questions": {"image": "one.png", "question": "What is it?", "answer": ["A bus.", "bus"]},
    "captions": {"image": "one.png", "caption": "A red bus."},
    "alpaca": {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    "swift": {"query": "<image>What?", "response": "A bus.", "images": ["one.png"], "history": [["Hello.", "Hello!"]]},
    "owl": {"text": "Sentence.\nHuman: <image>\nHuman: What?\nAI: A bus.", "image": ["one.png"]},
}


def source(folder: Path, *records: Mapping[str, Any], name: str = "data.jsonl") -> str:
    for number, file in enumerate(("one.png", "two.png")):
        picture(number).save(folder / file)
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def up_to(talk: Conversation, answers: int) -> Conversation:
    """A conversation up to the question before its answer of this number."""
    ends = [index for index, message in enumerate(talk.messages) if message.role == "assistant"]
    return Conversation(talk.messages[: ends[answers]], talk.system)


@pytest.mark.parametrize("kind", RECORDS)
def test_each_format_is_asked_as_it_is_trained(kind: str, tmp_path: Path) -> None:
    """With the answers of the data in the model's place, the prompt is the training conversation's, piece by piece."""
    spec = f"{kind}:{source(tmp_path, RECORDS[kind])}"
    (talk,) = [read(spec)[0]]
    questions = tasks.find(spec).questions("all", None, 0)
    graded = [one for one in talk.messages if one.role == "assistant" and one.supervised]
    assert [one.target for one in questions] == [one.text for one in graded]
    for question in questions:
        earlier = [target for _, target in question.turns[:-1]]
        mine, trained = conversation(question, "picture", earlier), up_to(talk, len(earlier))
        assert mine.prompt() == trained.prompt()
        assert [one.source for one in mine.pictures] == [one.source for one in trained.pictures]
        assert mine.system == trained.system


def test_later_turns_come_after_the_models_own_answers(tmp_path: Path) -> None:
    task, model = FromData(f"llava:{source(tmp_path, LLAVA)}"), Listener()
    answers = ask(model, task.questions("all"), task.conditions[0])
    assert [answer.question.id for answer in answers] == ["bus.1", "bus.2", "bus.3"]
    assert {answer.question.cluster for answer in answers} == {"one.png"}
    assert len(model.heard) == 3  # what two questions begin with is asked once
    assert model.heard[-1].answers == answers[-1].turns[:2] == tuple(answer.text for answer in answers[:2])


def test_where_pictures_stand_is_in_the_words(tmp_path: Path) -> None:
    first, second = FromData(source(tmp_path, CHAT)).questions("all")
    assert first.text == f"Compare {IMAGE_MARK}"
    assert second.text == f"{IMAGE_MARK}and this."
    assert first.cluster == second.cluster == "one.png + two.png"
    assert first.picture().size == picture(0).size


def test_several_answers_are_all_accepted_and_peoples_are_counted(tmp_path: Path) -> None:
    people = [{"answer": one, "answer_confidence": "yes"} for one in ("bus", "a bus", "bus", "car", "bus")]
    vqa = {"image": "one.png", "question": "What?", "multiple_choice_answer": "bus", "answers": people, "answer_type": "other"}
    task = FromData(f"questions:{source(tmp_path, vqa)}")
    (question,) = task.questions("all")
    assert (question.target, question.references) == ("bus", ("bus", "bus", "a bus", "car"))
    assert question.ability == "other"
    assert task.grader.name == "vqa"
    (alternative,) = FromData(f"questions:{source(tmp_path, RECORDS['questions'])}").questions("all")
    assert alternative.accepted == ("A bus.", "bus")


def test_labels_are_the_rows_of_the_table(tmp_path: Path) -> None:
    asked = {**RECORDS["questions"], "category": ["colour", "x"], "type": 3, "question_id": 17}
    spec = source(tmp_path, asked, asked, RECORDS["questions"])
    questions = FromData(f"questions:{spec}").questions("all")
    assert [(one.id, one.ability, one.kind) for one in questions] == [
        ("17", "colour", "3"),
        ("17, record 2", "colour", "3"),  # no two are called alike
        ("3", "overall", ""),
    ]


def test_parquet_has_its_labels_too(tmp_path: Path) -> None:
    table = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    source(tmp_path)
    columns = {"image": ["one.png"], "question": ["What?"], "answer": ["bus"], "category": ["things"], "id": ["a"], "junk": [1]}
    parquet.write_table(table.table(columns), tmp_path / "data.parquet")
    (question,) = FromData(f"parquet:{tmp_path}/data.parquet").questions("all")
    assert (question.id, question.ability, question.target) == ("a", "things", "bus")


def test_a_picture_in_the_file_is_known_by_what_it_is(tmp_path: Path) -> None:
    source(tmp_path)
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    held = [{"bytes": (tmp_path / file).read_bytes(), "path": None} for file in ("one.png", "two.png", "one.png")]
    parquet.write_table(
        table.table({"image": held, "question": ["A?", "A?", "B?"], "answer": ["a"] * 3}), tmp_path / "d.parquet"
    )
    one, two, three = FromData(f"parquet:{tmp_path}/d.parquet").questions("all")
    assert one.cluster == three.cluster != two.cluster
    assert one.cluster.startswith("picture ")


def test_other_system_sentences_lead_to_other_answers(tmp_path: Path) -> None:
    """About one picture with one question, and still not asked only once."""
    records = [{**RECORDS["questions"], "system": words} for words in ("Be brief.", "Be long.", "Be brief.")]
    task, model = FromData(f"questions:{source(tmp_path, *records)}"), Listener()
    assert len(ask(model, task.questions("all"), task.conditions[0])) == 3
    assert {talk.system for talk in model.heard} == {"Be brief.", "Be long."}


def test_what_cannot_be_asked_is_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = source(
        tmp_path,
        RECORDS["questions"],
        {"image": "none.png", "question": "What?", "answer": "bus"},
        {"image": "torn.png", "question": "What?", "answer": "bus"},
        {"image": "one.png", "question": "What?", "answer": ""},
        {"image": "one.png", "question": "What else?", "answer": "Nothing."},
    )
    whole = (tmp_path / "one.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    assert [one.id for one in FromData(f"questions:{spec}").questions("all")] == ["1", "5"]
    noted = " ".join(capsys.readouterr().err.split())
    assert "3 records cannot be read and are not asked: data.jsonl, line 2: no picture none.png" in noted
    assert "--image-root" not in noted


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"image": "one.png", "question": "What?", "answer": ""}, "no question with an answer in it.*no answer to learn"),
        ({"text": "A document."}, "no question with an answer in it.*a document"),
        (
            {"messages": [{"role": "user", "content": "A?"}, *[{"role": "assistant", "content": "B."}] * 2]},
            "two answers in a row",
        ),
    ],
)
def test_data_without_a_question_is_no_exam(record: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem):
        FromData(source(tmp_path, record)).questions("all")


def test_the_first_ones_are_the_same_however_many_are_asked(tmp_path: Path) -> None:
    spec = source(tmp_path, LLAVA, CHAT, LLAVA)
    whole = FromData(spec).questions("all")
    assert len(whole) == 8
    task = FromData(spec)
    for count in (3, 1, 8, 20):
        assert [(one.id, one.turns, one.image) for one in task.questions("all", count)] == [
            (one.id, one.turns, one.image) for one in whole[:count]
        ]


def test_a_name_that_is_no_source_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no task 'questoins'; there is scenes, owleval, text, or your own questions"):
        tasks.find("questoins")
    with pytest.raises(UserError, match="no such file"):
        tasks.find("questions:nowhere.csv").questions("all", None, 0)
    with pytest.raises(UserError, match="no such folder; --data names"):
        tasks.find(source(tmp_path, LLAVA), tmp_path / "nowhere").questions("all", None, 0)


def test_one_command_grades_answers_by_several_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = source(tmp_path, RECORDS["questions"], {"image": "two.png", "question": "Where?", "answer": "In the street."})
    answers = [
        {"question_id": "1", "answer": "bus", "model_id": "mine"},
        {"question_id": "2", "answer": "It is in the street."},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in answers))
    words = [
        "owl",
        "eval",
        f"answers:{file}",
        spec,
        "--metric",
        "exact",
        "--metric",
        "contains",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        mplug_owl_cli.main()
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "exact" in shown
    assert "50.0 [9.5, 90.5]" in shown
    assert "100 [34.2, 100]" in shown
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["grader"], row["score"]) for row in rows] == [("exact", 1), ("exact", 0), ("contains", 1), ("contains", 1)]
    assert "In the street." in (tmp_path / "out" / "wrong.html").read_text()
    assert not (tmp_path / "out" / "radar.png").exists()  # one ability is no radar


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An ability, a model or a file may be called so; a screen's own markup would swallow or refuse it."""
    spec = f"questions:{source(tmp_path, {**RECORDS['questions'], 'ability': '[/x] :b:'}, name='d[v2].jsonl')}"
    answers = tmp_path / "mine[v2].jsonl"
    answers.write_text(json.dumps({"question_id": "1", "answer": "bus"}) + "\n")
    run_exam(f"answers:{answers}", tasks.find(spec), out=tmp_path / "out")
    shown = capsys.readouterr().out.replace("\n", "")
    assert "[/x] :b:" in shown
    assert "d[v2].jsonl" in shown
