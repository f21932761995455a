"""OwlEval: 50 pictures and 82 questions, joined with one system's answers to one conversation a picture."""

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from mplug_owl.conversation import Conversation, Picture
from mplug_owl.data.sources.files import say_once
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.location import Location
from mplug_owl.data.sources.records import Listed, field
from mplug_owl.errors import BadSample, UserError

# What the answers file says where a system gave none ("cannot be traced back").
NO_ANSWER = "无法回溯"
# The answers taken from a folder that holds several systems': the released 7B's.
DEFAULT_ANSWERS = "mPLUG_Owl_7b_answer.jsonl"


def is_folder(path: Path) -> bool:
    """Whether this is OwlEval's folder."""
    return (path / "questions.jsonl").is_file()


def is_question(record: Any, path: Path) -> bool:
    """Whether a file's record is one of OwlEval's questions or answers: others have such fields, but not its folder."""
    named = isinstance(record, Mapping) and "question_id" in record and "question" in record
    return named and any(is_folder(folder) and (folder / "cases").is_dir() for folder in path.resolve().parents[:2])


def join(path: Path) -> Listed:
    """OwlEval's folder, its questions.jsonl or a file of answers: one record a picture, its questions in their order.

    Questions that the system has no answer to are left out, and so are pictures without any answer; how many is said.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    folder = next((folder for folder in (path, *path.resolve().parents[:2]) if is_folder(folder)), None)
    if folder is None:
        raise UserError(f"{path}: no questions.jsonl here nor in the folder above; expected OwlEval's folder or its answers")
    answers_file = folder / "answer" / DEFAULT_ANSWERS if path.is_dir() or path.name == "questions.jsonl" else path
    if not answers_file.is_file():
        raise UserError(f"{answers_file}: no such file; name a file of answers, owleval:ANSWERS.jsonl")

    answers = read_json(answers_file)
    said: dict[str, str] = {}
    for index in range(len(answers)):
        record, where = answers[index], answers.location(index)
        # Some answers files have their ids as numbers, some as text.
        said[str(field(record, "question_id", object, where))] = field(record, "answer", str, where).strip()

    questions = read_json(folder / "questions.jsonl")
    pictures, unanswered = dict[str, list[tuple[str, str]]](), 0
    for index in range(len(questions)):
        record, where = questions[index], questions.location(index)
        number, image = str(field(record, "question_id", object, where)), field(record, "image", str, where)
        answer = said.get(number, "")
        if answer and answer != NO_ANSWER:
            pictures.setdefault(image, []).append((field(record, "question", str, where), answer))
        else:
            unanswered += 1
    if not pictures:
        raise UserError(f"{answers_file}: answers none of the questions in {folder / 'questions.jsonl'}")
    if unanswered:
        say_once(f"{answers_file}: {unanswered} of {len(questions)} questions have no answer and are left out")
    return Listed(answers_file, [(folder / "cases" / image, turns) for image, turns in pictures.items()])


def conversation(record: Any, location: Location) -> Conversation:
    """The picture, and its questions and answers as turns."""
    image, turns = record
    # The picture of this number, whichever ending its file has.
    found = sorted(image.parent.glob(f"{escape(image.stem)}.*"))
    if not found:
        raise BadSample(f"{location}: no picture {image.name}, nor with another ending, in {image.parent}")
    talk = Conversation((), name=f"{location}, {found[0].name}")
    for turn, (question, answer) in enumerate(turns):
        talk = talk.said("user", *([Picture(found[0])] if turn == 0 else []), question).said("assistant", answer)
    return talk
