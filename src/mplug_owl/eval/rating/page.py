"""What the pages show: an item without a word about who answered, the first page, and the last."""

import io
import json
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from PIL import Image

from mplug_owl.conversation import Picture
from mplug_owl.errors import BadSample
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Letter
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.rating.people import WORDING, Item, Progress
from mplug_owl.eval.rating.raters import Outcome, Summary
from mplug_owl.eval.task import Question
from mplug_owl.model.images import open_image
from mplug_owl.page.render import render

# What a page says about the click that led to it.
NOTICES: Mapping[Outcome, str] = {
    "changed": "You had graded that answer before. Your last grade counts.",
    "same": "That answer has this grade already. It counts once.",
    "skipped": "Skipped. It comes again at the end.",
    "undone": "Undone. Here it is again.",
    "nothing": "There is nothing to undo.",
    "stale": "That page was out of date, so nothing was changed. This is the current answer.",
    "unknown": "That answer is not part of this session, so nothing was saved. This is the current answer.",
}
# A screen shows no more, and a photograph of a camera takes a phone's network for seconds.
LARGEST = 2000
# Letters in a photograph stay sharp; small pictures, such as drawn ones, stay as they are.
QUALITY, EXACT = 90, 512


@dataclass(frozen=True)
class PictureFile:
    """A picture as a browser gets it."""

    content: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of an exam under names that say nothing."""

    sources: Mapping[str, tuple[Question, int]]

    @classmethod
    def of(cls, answers: list[Answer]) -> "Pictures":
        """Every picture that these answers are about."""
        named = ((answer.question, number) for answer in answers for number in range(pictures_in(answer.question)))
        return cls({picture_id(question, number): (question, number) for question, number in named})

    @lru_cache(maxsize=64)  # noqa: B019  (there is one for as long as the program runs)
    def encoded(self, identity: str) -> PictureFile:
        """A picture as a new file. Raises KeyError where there is none, BadSample where it cannot be opened."""
        question, number = self.sources[identity]
        if question.parts:
            opened = open_image(list(_sources(question))[number].source)
        else:
            assert question.picture is not None  # noqa: S101  (it has an address)
            opened = question.picture()
        picture = opened.convert("RGB")
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        exact = max(picture.size) <= EXACT
        picture.save(file, "PNG" if exact else "JPEG", quality=QUALITY, subsampling=0)
        return PictureFile(file.getvalue(), "image/png" if exact else "image/jpeg", *picture.size)

    def of_item(self, item: Item) -> list[tuple[str, PictureFile | None]]:
        """Address and file of an item's pictures; None for a file that cannot be opened."""
        found: list[tuple[str, PictureFile | None]] = []
        for number in range(pictures_in(item.answer.question)):
            identity = picture_id(item.answer.question, number)
            try:
                encoded = self.encoded(identity)
            except BadSample as error:
                print(f"owl: {error}", file=sys.stderr)
                encoded = None
            found.append((f"/picture/{identity}", encoded))
        return found


def pictures_in(question: Question) -> int:
    """How many pictures a question is about."""
    return sum(1 for _ in _sources(question)) if question.parts else int(question.picture is not None)


def picture_id(question: Question, number: int) -> str:
    """A picture's name in addresses. Questions about one picture share it."""
    return sha256(json.dumps([question.cluster, number] + ([question.id] if question.parts else [])).encode()).hexdigest()[:20]


def item_page(person: Progress, summary: Summary, pictures: Pictures, notice: Outcome | None) -> str:
    """The page of the current item, or the last page where there is none."""
    person = person.copy()
    waiting = person.waiting
    common = {"person": person.name, "address": address(person), "notice": NOTICES.get(notice) if notice else None}
    if not waiting:
        return render("eval/rating/end.html.jinja", title="Thank you", summary=summary, **common)
    item = waiting[0]
    question = item.answer.question
    done = len(person.graded)
    return render(
        "eval/rating/item.html.jinja",
        title=f"Answer {done + 1} of {done + len(waiting)}",
        item=item.id,
        done=done,
        total=done + len(waiting),
        pictures=pictures.of_item(item),
        upcoming=_addresses(waiting[1])[:1] if len(waiting) > 1 else [],
        earlier=[(words, answer) for words, _, answer in item.answer.earlier],
        question=question.text,
        answer=item.answer.text.strip(),
        wording=WORDING,
        undoable=bool(person.events),
        **common,
    )


def start_page(problem: str | None = None) -> str:
    """The page that asks for a name."""
    return render("eval/rating/start.html.jinja", title="Grade answers", problem=problem, wording=WORDING)


def problem_page(problem: str) -> str:
    """A page that says what went wrong, and leads back."""
    return render("eval/rating/problem.html.jinja", title="That was not saved", problem=problem)


def address(person: Progress) -> str:
    """Where a person grades."""
    return f"/rate/{urllib.parse.quote(person.name, safe='')}"


def export(person: Progress, gold: Mapping[Key, Letter]) -> Iterator[str]:
    """A person's grades line by line, without the systems' names; with the known grades once nothing is left to grade."""
    graded, finished = person.graded, person.current is None
    for item in person.items:
        if item.id in graded:
            answer = item.answer
            row = {
                "item": item.id,
                "split": answer.condition.split,
                "question_id": answer.question.id,
                "question": answer.question.text,
                "answer": answer.text,
                "grade": graded[item.id],
                "round": item.round,
                **({"gold": gold[key(answer)]} if finished and key(answer) in gold else {}),
            }
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _addresses(item: Item) -> list[str]:
    question = item.answer.question
    return [f"/picture/{picture_id(question, number)}" for number in range(pictures_in(question))]


def _sources(question: Question) -> Iterator[Picture]:
    yield from (part for turn in question.parts for part in turn if isinstance(part, Picture))
