"""What a judge is asked beside its grades so that it can be judged: again, without the picture, and beside another one."""

import hashlib
import random
from collections.abc import Sequence

from mplug_owl.conversation import Picture
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.judge.judge import Sheet
from mplug_owl.eval.task import Question

# How many answers are audited: enough for shares within ten points.
SAMPLE = 100


def audit_sheets(answers: Sequence[Answer], sample: int = SAMPLE) -> list[Sheet]:
    """A second round for a sample of these answers, and the same with the picture removed and exchanged.

    The sample is the same in every run, and has as many pictures in it as it can. Text alone has no picture to take away.
    """
    chosen = _sample([answer for answer in answers if answer.text.strip()], sample)
    others = exchanged_questions([answer.question for answer in answers])
    sheets = [Sheet(answer, round=1) for answer in chosen]
    seen = [answer for answer in chosen if answer.question.cluster in others]
    sheets += [Sheet(answer, shown="removed") for answer in seen]
    if len(others) > 1:
        sheets += [Sheet(answer, shown="exchanged", exchanged=others[answer.question.cluster]) for answer in seen]
    return sheets


def exchanged_questions(questions: Sequence[Question]) -> dict[str, Question]:
    """For each picture's name a question about another picture, shuffled but the same in every run."""
    by_cluster = {question.cluster: question for question in questions if _has_picture(question)}
    names = sorted(by_cluster)
    random.Random(0).shuffle(names)
    return {name: by_cluster[names[(number + 1) % len(names)]] for number, name in enumerate(names)}


def _has_picture(question: Question) -> bool:
    """Whether a judge is shown one: a question of several parts may be of words alone."""
    if question.parts:
        return any(isinstance(part, Picture) for parts in question.parts for part in parts)
    return question.picture is not None


def _sample(answers: Sequence[Answer], count: int) -> list[Answer]:
    """The first answer about each picture, then the second ones, in an order that nothing about them decides."""
    shuffled = sorted(answers, key=_number)
    ranks: dict[str, int] = {}
    ranked: list[tuple[int, int, Answer]] = []
    for answer in shuffled:
        cluster = answer.question.cluster
        ranks[cluster] = ranks.get(cluster, -1) + 1
        ranked.append((ranks[cluster], len(ranked), answer))
    return [answer for _, _, answer in sorted(ranked, key=lambda one: one[:2])[:count]]


def _number(answer: Answer) -> str:
    return hashlib.sha256(f"{answer.model} {answer.condition.split} {answer.question.id} {answer.digest}".encode()).hexdigest()
