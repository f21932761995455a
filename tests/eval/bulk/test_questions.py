"""Every format is asked: with its answers cut off, or without any."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mplug_owl import read
from mplug_owl.conversation import SYSTEM_PROMPT, Picture
from mplug_owl.data.sources import FORMATS
from mplug_owl.errors import BadSample, UserError
from mplug_owl.eval.bulk.questions import Questions
from tests.eval.test_from_data import RECORDS, source
from tests.tiny import picture

WITH_PICTURE = {"image": "one.png", "question": "What is it?"}


def asked_of(folder: Path, *records: Mapping[str, Any], kind: str = "", **options: Any) -> Questions:
    return Questions(kind + source(folder, *records), **options)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_is_asked_as_it_is_trained_up_to_its_last_answer(kind: str, tmp_path: Path) -> None:
    questions = asked_of(tmp_path, RECORDS[kind], kind=f"{kind}:")
    (trained,) = [read(questions.source.name)[0]]
    asked = questions[0].conversation
    assert asked.messages == trained.messages[:-1]
    assert trained.messages[-1].role == "assistant"
    assert (asked.system, asked.style) == (trained.system, trained.style)


UNANSWERED: dict[str, tuple[Mapping[str, Any], str, int]] = {
    "a table of questions": (WITH_PICTURE, "What is it?", 1),
    "as OwlEval has them": ({**WITH_PICTURE, "question_id": 7}, "What is it?", 1),
    "with an empty answer": ({**WITH_PICTURE, "answer": ""}, "What is it?", 1),
    "with options": ({**WITH_PICTURE, "A": "a bus", "B": "a car"}, "What is it?\nA. a bus\nB. a car", 1),
    "words alone": ({"question": "3 and 4?"}, "3 and 4?", 0),
    "words alone, answered": ({"question": "3 and 4?", "answer": "7"}, "3 and 4?", 0),
    "chat": ({"messages": [{"role": "user", "content": "Hello."}]}, "Hello.", 0),
    "llava": ({"image": "one.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}, "What?", 1),
    "alpaca": ({"instruction": "Add.", "input": "1 and 2"}, "Add.\n1 and 2", 0),
    "swift": ({"query": "<image>What?", "images": ["one.png"]}, "What?", 1),
    "a document": ({"text": "Say hello."}, "Say hello.", 0),
    "a chat with an empty answer": (
        {"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": ""}]},
        "Hello.",
        0,
    ),
    "a chat whose answer is not learned": (
        {"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes.", "weight": 0}]},
        "Hello.",
        0,
    ),
    "the original's prompt": ({"image": "one.png", "text": "Be kind.\nHuman: <image>\nHuman: What?\nAI: "}, "What?", 1),
    "the original's prompt, stripped": ({"image": "one.png", "text": "Human: <image>\nHuman: What?\nAI:"}, "What?", 1),
    "cauldron": ({"images": ["one.png"], "texts": [{"user": "What?"}]}, "What?", 1),
    "baize": ({"input": "A talk.\n[|Human|]Hi.\n[|AI|]Hello.\n[|Human|]Who are you?"}, "Who are you?", 0),
    "a file of pictures": ({"image": "one.png", "id": 1}, "", 1),
    "a picture alone": ({"image": "one.png", "caption": "A red bus."}, "", 1),
}


@pytest.mark.parametrize("kind", UNANSWERED)
def test_a_record_needs_no_answer(kind: str, tmp_path: Path) -> None:
    record, words, pictures = UNANSWERED[kind]
    questions = asked_of(tmp_path, record)
    asked = questions[0]
    assert asked.words == words
    assert len(asked.conversation.pictures) == pictures
    assert asked.conversation.messages[-1].role == "user"
    assert "-" not in asked.conversation.answers
    assert asked.id == str(record.get("question_id", 1))
    if "picture" not in kind and "prompt" not in kind:
        assert asked.conversation.system == SYSTEM_PROMPT


def test_earlier_answers_stand(tmp_path: Path) -> None:
    asked = asked_of(tmp_path, RECORDS["llava"])[0]
    assert asked.conversation.answers == ("A bus.", "Red.")
    assert asked.words == "Where?"
    assert asked.id == "bus"


def test_one_question_about_every_picture(tmp_path: Path) -> None:
    questions = asked_of(tmp_path, RECORDS["captions"], RECORDS["llava"], words="How many?", limit=2)
    for index in range(2):
        (message,) = questions[index].conversation.messages
        assert message.parts == (Picture(tmp_path / "one.png"), "How many?")
    assert asked_of(tmp_path, {"image": "one.png"}, words="How many?")[0].words == "How many?"
    (tmp_path / "pictures.csv").write_text("image\none.png\n")
    assert Questions(str(tmp_path / "pictures.csv"), words="How many?")[0].words == "How many?"
    blind = asked_of(tmp_path, {"question": "What?"}, words="How many?")
    with pytest.raises(BadSample, match="--question asks about pictures"):
        blind[0]


def test_containers(tmp_path: Path) -> None:
    """A table, parquet, and a data set of Hugging Face's."""
    datasets = pytest.importorskip("datasets")
    picture(0).save(tmp_path / "one.png")
    (tmp_path / "table.csv").write_text("image,question,id\none.png,What?,a\n")
    raw = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
    made = datasets.Dataset.from_list([{"image": raw, "question": "What?", "id": "a"}])
    made.to_parquet(str(tmp_path / "rows.parquet"))
    made.save_to_disk(str(tmp_path / "saved"))
    for spec in ("table.csv", "questions:table.csv", "rows.parquet", "parquet:rows.parquet", "hub:saved", "saved"):
        name, _, path = spec.rpartition(":")
        asked = Questions(f"{name}:{tmp_path / path}" if name else str(tmp_path / path))[0]
        assert (asked.id, asked.words, len(asked.conversation.pictures)) == ("a", "What?", 1), spec


def test_every_format_has_a_way_in() -> None:
    """Those that are not in this file: layouts of several files, whose records are captions, and drawn lessons."""
    here = {*RECORDS, "sharegpt", "cauldron", "baize", "parquet", "hub", "text"}
    assert FORMATS.keys() - here == {"webdataset", "coco", "folder", "owleval", "scenes"}
    assert Questions("scenes:chats", limit=3)[2].conversation.messages[-1].role == "user"
    with pytest.raises(UserError, match="owl eval MODEL owleval"):
        Questions("owleval:somewhere")


BAD: dict[str, tuple[Any, str]] = {
    "no picture there": ({"image": "none.png", "question": "What?"}, "no picture none.png"),
    "an answer first": ({"messages": [{"role": "assistant", "content": "Hello."}]}, "nothing is asked"),
    "no words": ({"messages": [{"role": "user", "content": " "}]}, "the question is empty"),
    "a film": ({**WITH_PICTURE, "video": "film.mp4"}, "has 'video'"),
    "half a character": ({**WITH_PICTURE, "question": "\ud800?"}, "half a character"),
    "something else": ({"messages": 3}, "expected a list"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_asked_says_why(kind: str, tmp_path: Path) -> None:
    record, reason = BAD[kind]
    with pytest.raises(BadSample, match=reason):
        asked_of(tmp_path, WITH_PICTURE, record)[1]


def test_no_data(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.jsonl"), "~nobody-of-this-name/none.jsonl"):
        with pytest.raises(UserError, match="no such file"):
            Questions(name)
    (tmp_path / "odd.jsonl").write_text(json.dumps({"x": 1}) + "\n")
    with pytest.raises(UserError, match="no known format has the fields 'x'"):
        Questions(str(tmp_path / "odd.jsonl"))
