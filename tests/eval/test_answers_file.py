"""answers.jsonl: an exam that is cut off anywhere asks each question once, and other systems' files enter as they are."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.eval.answer import answer_task
from mplug_owl.eval.answers_file import AnswersFile
from mplug_owl.eval.read_answers import NO_ANSWER, read_answers
from mplug_owl.eval.tasks.owleval import OwlEval
from tests.eval.owleval import QUESTIONS, folder_of
from tests.eval.quiz import Listener, Quiz


class CutOffError(Exception):
    """What a kill looks like from inside."""


class Failing(Listener):
    """Gives its answers one by one, last first, and ends after so many."""

    def __init__(self, lasts: int) -> None:
        super().__init__()
        self.left = lasts

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        for index in reversed(range(len(conversations))):
            if not self.left:
                raise CutOffError
            self.left -= 1
            yield index, self.answers([conversations[index]], decoding)[0]


def asked(model: Listener, path: Path | None) -> list:
    return answer_task(model, Quiz(), 3, 0, answers_file=AnswersFile(path, "quiz", "listener"))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_exam_cut_off_again_and_again_asks_everything_once(steps: int, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    heard: list[Conversation] = []
    while True:
        model = Failing(steps)
        try:
            answers = asked(model, path)
            break
        except CutOffError:
            heard += model.heard
    heard += model.heard
    whole = Listener()
    once = [answer.turns for answer in asked(whole, None)]
    assert [answer.turns for answer in answers] == once
    assert len(heard) == len(whole.heard)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(row["split"], row["mode"], row["question_id"], len(row["earlier"])) for row in lines]
    assert len(keys) == len(set(keys)) == 30
    assert len(whole.heard) == 27  # the odd cards are three of the plain ones
    assert [answer.turns for answer in read_answers(path, Quiz(), 3, 0)] == once


def test_another_exams_answers_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    asked(Listener(), path)
    for task, model, problem in (("other", "listener", "task is 'quiz'"), ("quiz", "other", "model_id is 'listener'")):
        with pytest.raises(UserError, match=f"line 1: {problem}"):
            AnswersFile(path, task, model)
    lines = path.read_text().splitlines()
    changed = json.loads(lines[0])
    changed["question"] = "Something else?"
    path.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    with pytest.raises(UserError, match=f"question {changed['question_id']} has other words there"):
        asked(Listener(), path)


def test_dialogues_share_the_turns_they_begin_with(tmp_path: Path) -> None:
    """The drawn-up OwlEval has two questions alone, one of them also the first of a dialogue of three."""
    task, model = OwlEval(folder_of(tmp_path)), Listener()
    answers = answer_task(model, task, None, 0)
    assert [answer.question.id for answer in answers] == ["1", "2", "2", "3", "4"]
    assert len(model.heard) == 4  # one for each question: a dialogue's first turn is the question alone
    assert answers[4].turns == (answers[2].text, answers[3].text, answers[4].text)
    assert answers[1].text == answers[2].text


RELEASED = [
    {"image": "1.png", "question_id": "1", "question": "What isthis ?", "answer": "A dot.", "model_id": "old"},
    {"image": "2.png", "question_id": "2", "question": "Where is it?", "answer": NO_ANSWER, "model_id": "old"},
    {"image": "2.png", "question_id": 3, "question": "Whose?", "answer": " Mine. ", "model_id": "old"},
    {"image": "2.png", "question_id": "4", "question": "Another question.", "answer": "Because.", "model_id": "old"},
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def test_released_files_enter_as_they_are(tmp_path: Path) -> None:
    notes: list[str] = []
    answers = read_answers(write(tmp_path / "old.jsonl", RELEASED), OwlEval(folder_of(tmp_path)), note=notes.append)
    assert [(answer.condition.split, answer.question.id, answer.turns) for answer in answers] == [
        ("single", "1", ("A dot.",)),
        ("single", "2", ("",)),
        ("multi", "2", ("",)),
        ("multi", "3", ("", "Mine.")),
        ("multi", "4", ("", "Mine.", "Because.")),
    ]
    assert {answer.model for answer in answers} == {"old"}
    assert notes == [f"{tmp_path / 'old.jsonl'}: the words of questions 4 differ from owleval's; found by their ids"]


def test_questions_without_an_answer_are_counted(tmp_path: Path) -> None:
    """Of the half that the file answers at all: a share of three answers is none of all questions."""
    notes: list[str] = []
    file = write(tmp_path / "old.jsonl", [{**RELEASED[0], "split": "single"}])
    assert len(read_answers(file, OwlEval(folder_of(tmp_path)), note=notes.append)) == 1
    assert notes == [f"{file}: has answers to 1 of 2 questions; the others are in no figure"]


@pytest.mark.parametrize("earlier", ["x", 5, {"a": 1}, ["x"], [{"answer": "x"}], [{"question": 1, "answer": "x"}]])
def test_damaged_earlier_turns_are_named(earlier: object, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    asked(Listener(), path)
    row = json.loads(path.read_text().splitlines()[0])
    write(path, [{**row, "earlier": earlier}])
    for read in (lambda: AnswersFile(path, "quiz", "listener"), lambda: read_answers(path, Quiz(), 3, 0)):
        with pytest.raises(UserError, match="line 1"):
            read()
    write(path, [{**row, "split": ["plain"]}])
    with pytest.raises(UserError, match="line 1: split is"):
        AnswersFile(path, "quiz", "listener")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([*RELEASED, RELEASED[0]], "line 5: an earlier line answers question 1 too"),
        ([{**RELEASED[0], "question_id": "77"}], "line 1: question_id '77' is none of owleval's"),
        ([RELEASED[0], {**RELEASED[1], "model_id": "new"}], "answers of 'old' and 'new'; expected one model's"),
        ([{**RELEASED[0], "answer": None}], "line 1: answer is None; expected text"),
        ([{**RELEASED[0], "task": "quiz"}], "line 1: an answer to 'quiz', not to owleval"),
        ([{**RELEASED[0], "earlier": [{"answer": "x"}] * 3}], "line 1: 3 earlier turns, and question 1 has 0 in owleval"),
        ([], "no answer to any question of owleval"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(rows: list[dict], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem):
        read_answers(write(tmp_path / "old.jsonl", rows), OwlEval(folder_of(tmp_path)))


def test_a_picture_is_found_whichever_ending_it_has_and_missing_ones_are_named(tmp_path: Path) -> None:
    task = OwlEval(folder_of(tmp_path))
    (question, _) = task.questions("single")
    assert question.picture is not None
    assert isinstance(question.picture(), Image.Image)
    (tmp_path / "cases" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"questions\.jsonl, line 2: no picture 2\.png"):
        OwlEval(tmp_path).questions("single")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"ability": "a,z"}, "ability has 'z'"),
        ({"category": "single_turn"}, "category is 'single_turn'"),
        ({"category": []}, r"category is \[\]"),
        ({"question": 3}, "question is 3; expected text"),
    ],
)
def test_a_question_that_is_none_is_named(changed: dict, problem: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [{**QUESTIONS[0], **changed}])
    with pytest.raises(UserError, match=rf"questions\.jsonl, line 1: {problem}"):
        OwlEval(folder).questions("single")


def test_the_real_one_has_the_papers_halves(shared: Path) -> None:
    if not (shared / "owleval").is_dir():
        pytest.skip(f"{shared / 'owleval'} is not here")
    task = OwlEval(shared / "owleval")
    single, multi = task.questions("single"), task.questions("multi")
    assert (len(single), len(multi), len({one.id for one in single + multi})) == (50, 52, 82)
    assert len({one.id for one in single} & {one.id for one in multi}) == 20
    assert len({one.cluster for one in single + multi}) == 50
    assert all(one.ability in one.abilities for one in single + multi)  # our label is among the released ones
    for file in sorted((shared / "owleval" / "answer").iterdir()):
        assert len(read_answers(file, task)) == 102
