"""`owl judge` for questions in words: scores of 1 to 10 beside references, each written down at once."""

import json
from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.exam_folder import GRADES, Exam
from mplug_owl.eval.grades_file import GradesFile, key, read_grades
from mplug_owl.eval.judge.judge import Judge
from mplug_owl.eval.judge.judging import Judging, Progress, first_questions, refuse_other_weights, signed
from mplug_owl.eval.judge.scores import VERSION, score_text
from mplug_owl.eval.judge.text_table import TextTable, plain, text_tables
from mplug_owl.writing import replacing, writing

SCORES = "scores.json"


def score_exam(judge: Judge, exam: Exam, folder: Path, wanted: Judging, progress: Progress) -> list[TextTable]:
    """Score an exam's answers into grades.jsonl and scores.json; what is there already is not asked again.

    Raises:
        UserError: No question has a reference, more is wanted than scores, or the judge is not there. What it replied is kept.
    """
    if wanted.pairs or wanted.sample is not None:
        raise UserError("text: each answer is scored beside its reference in both orders; --pairs and --audit are for OwlEval")
    answers = [answer for answer in first_questions(exam.answers, wanted.limit) if answer.question.accepted]
    if not answers:
        raise UserError("text: none of these questions has a reference to score beside; see reference_*.jsonl in the docs")
    path = folder / GRADES
    kept = GradesFile(path, exam.task.name)
    there = read_grades(path, exam.task.name, exam.answers)
    refuse_other_weights(there, judge, path)
    known = {
        key(grade.answer)
        for grade in there
        if (grade.kind, grade.grader, grade.details.get("prompt")) == ("judge", judge.name, VERSION)
    }
    missing = [answer for answer in answers if key(answer) not in known]
    for grade in progress("scoring", len(missing), score_text(judge, missing)):
        kept.add(signed(grade, judge))
    tables = text_tables(exam, read_grades(path, exam.task.name, exam.answers), judge.name)
    with writing(folder / SCORES), replacing(folder / SCORES) as new:
        new.write_text(json.dumps(plain(tables), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return tables
