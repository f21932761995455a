"""Questions in words: FastChat's files and one's own, two scores in both orders, and the ratio of their sums."""

import io
import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.eval import tasks
from mplug_owl.eval.answer import Answer, ask
from mplug_owl.eval.exam_folder import Exam
from mplug_owl.eval.grades_file import GradesFile, read_grades
from mplug_owl.eval.judge import run as judge_run
from mplug_owl.eval.judge.judge import Judge
from mplug_owl.eval.judge.judging import Judging
from mplug_owl.eval.judge.scores import read_scores, score_text
from mplug_owl.eval.judge.text_table import plain, show_text, text_tables
from mplug_owl.eval.tasks.text import TextQuestions
from tests.eval.quiz import Listener

# What every answer of a made-up model is worth, and what comes on top for the one that is shown first.
WORTH = {"good": 8, "fair": 6, "poor": 2}
GAIN = 1


class StubJudge:
    """A ChatModel that scores by the first word of each answer, and a bit more for the first one; last replies come first."""

    def __init__(self, reply: str = "Reasons.\nSCORES: {} {}") -> None:
        self.reply, self.heard = reply, list[Conversation]()

    def arriving(self, talks: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        self.heard += talks
        for position in reversed(range(len(talks))):
            first, second = re.findall(r"ASSISTANT \d\n<\w+>(\w*)", talks[position].messages[0].text)
            yield position, self.reply.format(WORTH[first] + GAIN, WORTH[second])

    def answers(self, talks: Sequence[Conversation], decoding: Decoding) -> list[str]:
        return [reply for _, reply in sorted(self.arriving(talks, decoding))]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        raise NotImplementedError("a judge is asked many at once")


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder in FastChat's layout: four questions, references for three, one of two turns."""
    asked = [("writing", ["Write."]), ("writing", ["Again."]), ("math", ["1 + 1?", "And 1 more?"]), ("math", ["0?"])]
    rows = [{"question_id": 81 + at, "category": category, "turns": turns} for at, (category, turns) in enumerate(asked)]
    lines(tmp_path / "question.jsonl", *rows)
    references = [
        {"question_id": 81 + at, "choices": [{"index": 0, "turns": ["fair answer"] * len(rows[at]["turns"])}]}
        for at in (0, 1, 2)
    ]
    lines(tmp_path / "reference_gpt.jsonl", *references)
    return tmp_path


def exam_of(bench: Path, *models: tuple[str, Sequence[str]]) -> Exam:
    task = TextQuestions(bench)
    asked = task.questions("all")
    answers = [
        Answer(question, task.conditions[0], (*["earlier"] * (len(question.turns) - 1), words), model)
        for model, said in models
        for question, words in zip(asked, said, strict=True)
    ]
    return Exam(task, tuple(answers))


def scorable(exam: Exam) -> list[Answer]:
    return [answer for answer in exam.answers if answer.question.accepted]


def test_fastchats_folder_is_read_turn_by_turn(bench: Path) -> None:
    task = tasks.find("text", bench)
    questions = task.questions("all", None, 0)
    assert [(one.id, one.ability, one.text, one.target) for one in questions] == [
        ("81", "writing", "Write.", "fair answer"),
        ("82", "writing", "Again.", "fair answer"),
        ("83.1", "math", "1 + 1?", "fair answer"),
        ("83.2", "math", "And 1 more?", "fair answer"),
        ("84", "math", "0?", ""),
    ]
    assert task.questions("all", 2, 0) == questions[:2]
    model = Listener()
    assert len(ask(model, questions, task.conditions[0])) == len(model.heard) == 5  # the first turn of 83 once
    assert not any(talk.pictures for talk in model.heard)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = lines(tmp_path / "mine.jsonl", {"question": "A?", "reference": "a"}, {"id": "x", "turns": ["B?", "C?"]})
    assert [(one.id, one.ability, one.accepted) for one in TextQuestions(path).questions("all")] == [
        ("1", "overall", ("a",)),
        ("x.1", "overall", ()),
        ("x.2", "overall", ()),
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"question": "A?", "id": 1}, {"question": "B?", "id": "1"}], "line 2: question 1 is on line 1 too"),
        ([{"turns": ["A?", "B?"], "reference": "a"}], "has 2 turns and 1 references"),
        ([{"reference": "a"}], "no words in any of turns, question"),
        ([{"question": ["A?", 3]}], "question is .*; expected text, or a list of it"),
        ([{"question": "A?", "id": []}], r"id is \[\]; expected text or a number"),
        ([{"question": "A?", "category": 3}], "category is 3; expected text"),
        ([], "no questions in the file"),
    ],
)
def test_a_file_that_is_none_is_named_with_its_line(rows: list[object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem):
        TextQuestions(lines(tmp_path / "mine.jsonl", *rows)).questions("all")


def test_what_is_missing_is_said(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name their folder or JSON lines, --data"):
        tasks.find("text")
    with pytest.raises(UserError, match="no such file"):
        TextQuestions(tmp_path / "nowhere.jsonl").questions("all")
    lines(bench / "reference_other.jsonl", {"question_id": 82, "text": "another"})
    with pytest.raises(UserError, match=r"reference_other\.jsonl, line 1: question 82 has a reference in reference_gpt"):
        TextQuestions(bench).questions("all")


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("Reasons.\nSCORES: 7 4", (7, 4)),
        ("**Scores:** 7, 4.", (7, 4)),
        ("SCORES: [8.5] [10]", (8.5, 10)),
        ("SCORES: 7/10 and 4/10", (7, 4)),
        ("SCORES: 1 2\nNo, rather\nSCORES: 7 4", (7, 4)),  # the last one counts
        ("7 4\nThe first is better.", (7, 4)),  # as Vicuna's judge was asked for them
        ("8.0 9.0", (8, 9)),
        ("", None),
        ("SCORES: 7", None),
        ("SCORES: 0 11", None),
        ("SCORES: 7 4 9", None),
        ("The first deserves 7 and the second 4 of 10.", None),
        ("7 4\n3 5", None),  # which of them?
        ("SCORES: seven four", None),
    ],
)
def test_scores_are_read_or_there_are_none(reply: str, scores: tuple[float, float] | None) -> None:
    assert read_scores(reply) == scores


def test_both_orders_are_asked_and_the_order_takes_nothing_away(bench: Path) -> None:
    exam = exam_of(bench, ("mine", ["good", "poor", "fair", "good", "good"]))
    stub = StubJudge()
    grades = {grade.answer.question.id: grade for grade in score_text(Judge(stub, "stub"), scorable(exam))}
    assert len(stub.heard) == 8
    assert grades["81"].details["model"] == [9, 8]  # first once, and once second
    assert grades["81"].details["reference"] == [6, 7]
    assert grades["81"].score == pytest.approx(0.85)
    assert grades["82"].score == pytest.approx(0.25)
    assert "earlier" in stub.heard[-1].messages[0].text or "earlier" in stub.heard[-2].messages[0].text
    assert not any("reference" in talk.messages[0].text.lower() for talk in stub.heard)  # the judge is not told which one it is


def test_the_table_is_the_ratio_of_sums_by_category(bench: Path) -> None:
    exam = exam_of(bench, ("mine", ["good", "poor", "fair", "good", "good"]), ("other", ["fair", "", "fair", "fair", "good"]))
    judge = Judge(StubJudge(), "stub")
    mine, other = text_tables(exam, list(score_text(judge, scorable(exam))), "stub")
    assert [(row.category, row.questions) for row in mine.rows] == [("writing", 2), ("math", 2), ("overall", 4)]
    writing, math, overall = mine.rows
    assert (writing.model, writing.reference) == (5.5, 6.5)
    assert writing.ratio == pytest.approx(11 / 13)
    assert overall.ratio == pytest.approx((8.5 + 2.5 + 6.5 + 8.5) / (4 * 6.5))
    assert overall.interval[0] <= overall.ratio <= overall.interval[1]
    assert overall.interval[0] == pytest.approx(2.5 / 6.5)  # 82 alone, three times of 27
    assert math.interval is None  # both turns are of one question
    assert mine.first_gains == pytest.approx(GAIN)
    assert (mine.without_reference, mine.unanswered, mine.unreadable) == (1, 0, 0)
    assert other.rows[-1].ratio == pytest.approx(1.0)
    assert (other.unanswered, other.rows[-1].questions) == (1, 3)
    shown = io.StringIO()
    show_text([mine, other], Console(file=shown, width=100))
    assert "100.0% [38.5%, " in shown.getvalue()
    assert "+1.00 points for being shown first" in shown.getvalue()
    assert json.loads(json.dumps(plain([mine])))[0]["rows"][2]["questions"] == 4


def test_what_cannot_be_read_is_counted_and_never_a_one(bench: Path) -> None:
    exam = exam_of(bench, ("mine", ["good", "poor", "fair", "good", "good"]))
    grades = list(score_text(Judge(StubJudge("I like both."), "stub"), scorable(exam)))
    assert [grade.score for grade in grades] == [None] * 4
    (table,) = text_tables(exam, grades, "stub")
    assert (table.rows, table.unreadable) == ((), 4)


def test_grades_come_back_from_their_file_with_the_replies(bench: Path, tmp_path: Path) -> None:
    exam = exam_of(bench, ("mine", ["good", "poor", "fair", "good", "good"]))
    grades = list(score_text(Judge(StubJudge(), "stub"), scorable(exam)))
    file = GradesFile(tmp_path / "grades.jsonl", "text")
    for grade in grades:
        file.add(grade)
    back = read_grades(tmp_path / "grades.jsonl", "text", exam.answers)
    assert text_tables(exam, back, "stub") == text_tables(exam, grades, "stub")
    assert back[0].details["replies"] == ["Reasons.\nSCORES: 9 6", "Reasons.\nSCORES: 7 8"]


def test_owl_judge_scores_a_folder_and_resumes(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question_id": name, "answer": "good words", "model_id": "mine"} for name in ("81", "82", "83.1", "83.2", "84")]
    file, out, stub = lines(tmp_path / "mine.jsonl", *rows), tmp_path / "out", StubJudge()
    monkeypatch.setattr(judge_run, "find", lambda name, device: stub)
    monkeypatch.setattr(judge_run, "_identity", lambda name: name)
    monkeypatch.setattr(judge_run, "weights_digest", lambda name: "")
    run = judge_run.JudgeRun("stub", (str(file),), Judging(), "text", bench, out)
    for _ in range(2):  # the second time, everything is known
        assert judge_run.run_judge(run) == out
        assert len(stub.heard) == 8
    assert len((out / "grades.jsonl").read_text().splitlines()) == 4
    (table,) = json.loads((out / "scores.json").read_text())
    assert (table["model"], table["without_reference"]) == ("mine", 1)
    assert table["rows"][-1]["ratio"] == pytest.approx(8.5 / 6.5)
    with pytest.raises(UserError, match="--pairs and --audit are for OwlEval"):
        judge_run.run_judge(replace(run, judging=Judging(pairs=True)))
    (bench / "reference_gpt.jsonl").unlink()
    with pytest.raises(UserError, match="none of these questions has a reference"):
        judge_run.run_judge(run)


def test_vicunas_questions(shared: Path) -> None:
    """80 of them, and references for ten: those in coding and mathematics."""
    if not (folder := shared / "vicuna_bench").is_dir():
        pytest.skip(f"{folder} is not here")
    questions = TextQuestions(folder).questions("all")
    assert len(questions) == 80
    known = [one for one in questions if one.accepted]
    assert [one.id for one in known] == [str(number) for number in range(61, 71)]
    assert {one.ability for one in known} == {"coding", "math"}
