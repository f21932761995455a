"""OwlEval's questions, joined with a system's answers."""

import json
from pathlib import Path

import pytest

from mplug_owl import Picture
from mplug_owl.data.sources import check, read
from tests.data.sources.samples import said
from tests.tiny import picture


@pytest.fixture
def owleval(tmp_path: Path) -> Path:
    """Two pictures and three questions, ids as text in the answers and another ending on the pictures."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "answer").mkdir()
    for number in (1, 2):
        picture(number).save(tmp_path / "cases" / f"{number}.jpg")
    questions = [
        {"image": f"{image}.png", "question_id": index, "question": f"Question {index}?"}
        for index, image in enumerate((1, 2, 2), 1)
    ]
    answers = [{"image": "x", "question_id": str(index), "answer": f"Answer {index}."} for index in (3, 1, 2)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "answer" / "mPLUG_Owl_7b_answer.jsonl").write_text("\n".join(map(json.dumps, answers)))
    answers[1]["answer"] = "无法回溯"
    (tmp_path / "answer" / "other.jsonl").write_text("\n".join(map(json.dumps, answers)))
    return tmp_path


def test_owleval_is_one_conversation_a_picture(owleval: Path) -> None:
    for spec in (f"{owleval}", f"owleval:{owleval}", f"owleval:{owleval}/questions.jsonl", f"{owleval}/questions.jsonl"):
        source = read(spec)
        assert len(source) == 2
        assert source[1].messages == said(
            ("user", (Picture(owleval / "cases" / "2.jpg"), "Question 2?")),
            ("assistant", "Answer 2."),
            ("user", "Question 3?"),
            ("assistant", "Answer 3."),
        )


def test_owleval_leaves_out_what_a_system_could_not_answer(owleval: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = read(f"owleval:{owleval}/answer/other.jsonl")
    assert [source[i].answers for i in range(len(source))] == [("Answer 2.", "Answer 3.")]
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith("other.jsonl: 1 of 3 questions have no answer and are left out")


def test_owleval_says_what_is_missing(owleval: Path) -> None:
    (owleval / "cases" / "2.jpg").unlink()
    assert check(read(str(owleval)))[0].endswith(f"no picture 2.png, nor with another ending, in {owleval / 'cases'}")
    (owleval / "answer" / "mPLUG_Owl_7b_answer.jsonl").unlink()
    with pytest.raises(ValueError, match="no such file; name a file of answers"):
        read(str(owleval))


def test_the_real_owleval(shared: Path) -> None:
    if not (folder := shared / "owleval").is_dir():
        pytest.skip(f"{folder} is not here")
    files = sorted((folder / "answer").glob("*.jsonl"))
    assert "mPLUG_Owl_7b_answer.jsonl" in {file.name for file in files}
    for answers in files:
        source = read(f"owleval:{answers}")
        assert check(source, decode=False) == []
        talks = [source[i] for i in range(len(source))]
        if answers.name == "mPLUG_Owl_7b_answer.jsonl":
            assert len(talks) == 50
            assert sum(len(talk.answers) for talk in talks) == 82
