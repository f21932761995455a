"""A judge is shown what it is meant to be shown, is asked once, and nothing but a letter is a grade."""

import io
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.judge.audit import audit_sheets, exchanged_questions
from mplug_owl.eval.judge.judge import Judge, OpenPictures, Sheet
from mplug_owl.eval.judge.reply_cache import CachedChatModel, ReplyCache, picture_digest
from tests.eval.quiz import CONDITIONS, question


class Stub:
    """A named stub: replies with these words, and remembers what it was asked."""

    def __init__(self, reply: str = "I see a card.\nGRADE: B", fails_after: int | None = None) -> None:
        self.reply, self.fails_after = reply, fails_after
        self.heard: list[Conversation] = []

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        return [reply for _, reply in self.arriving(conversations, decoding)]

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        for position in reversed(range(len(conversations))):
            if self.fails_after is not None and len(self.heard) >= self.fails_after:
                raise UserError("the server is down")
            self.heard.append(conversations[position])
            yield position, self.reply

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        self.heard.append(conversation)
        yield from (self.reply[:4], self.reply[4:])


def answers(count: int, model: str = "one", words: str = "card {}") -> list[Answer]:
    return [Answer(question(number), CONDITIONS[0], (words.format(number),), model) for number in range(count)]


def colour(talk: Conversation) -> tuple:
    (picture,) = talk.pictures
    return Image.open(io.BytesIO(picture.source)).getpixel((0, 0))


def test_each_answer_is_graded_beside_its_picture() -> None:
    stub = Stub()
    grades = Judge(stub, "stub").grades(answers(3))
    assert [(grade.letter, grade.score, grade.grader, grade.kind) for grade in grades] == [("B", 1.0, "stub", "judge")] * 3
    assert grades[0].details == {"reply": stub.reply, "why": "grade", "prompt": 1}
    assert [grade.answer.text for grade in grades] == ["card 0", "card 1", "card 2"]
    for talk in stub.heard:
        number = int(talk.messages[0].text.partition("on card ")[2][0])
        assert colour(talk) == (number, 90, 120)


@pytest.mark.parametrize(("reply", "why"), [("no idea", "unreadable"), ("GRADE: NONE", "declined")])
def test_a_reply_without_a_letter_is_unscored(reply: str, why: str) -> None:
    (grade,) = Judge(Stub(reply), "stub").grades(answers(1))
    assert (grade.letter, grade.score, grade.details["why"]) == (None, None, why)


def test_an_empty_answer_is_not_sent() -> None:
    stub = Stub()
    first, second = Judge(stub, "stub").grades([*answers(1, words=" \n"), *answers(1)])
    assert (first.letter, first.details["why"]) == (None, "no answer")
    assert second.letter == "B"
    assert len(stub.heard) == 1


def test_equal_answers_to_one_question_are_asked_about_once() -> None:
    stub = Stub()
    grades = Judge(stub, "stub").grades([*answers(2), *answers(2, "two")])
    assert [grade.answer.model for grade in grades] == ["one", "one", "two", "two"]
    assert len(stub.heard) == 2


def test_a_second_run_asks_nothing_and_another_round_asks_again(tmp_path: Path) -> None:
    path, stub = tmp_path / "replies.jsonl", Stub()
    before = Judge(stub, "stub", ReplyCache(path)).grades(answers(3))
    after = Judge(stub, "stub", ReplyCache(path)).grades(answers(3))
    assert [grade.letter for grade in before] == [grade.letter for grade in after]
    assert len(stub.heard) == 3
    list(Judge(stub, "stub", ReplyCache(path)).arriving([Sheet(answer, round=1) for answer in answers(3)]))
    assert len(stub.heard) == 6


@pytest.mark.parametrize("change", ["name", "identity", "decoding", "picture", "answer", "dialogue"])
def test_whatever_a_reply_depends_on_is_asked_anew(change: str) -> None:
    stub, cache = Stub(), ReplyCache()
    judge, (answer,) = Judge(stub, "stub", cache), answers(1)
    judge.grades([answer])
    asked = answer.question
    if change == "picture":
        answer = replace(answer, question=replace(asked, picture=question(1).picture))
    if change == "answer":
        answer = replace(answer, turns=("another",))
    if change == "dialogue":
        answer = replace(answer, question=replace(asked, turns=(("Hello?", ""), *asked.turns)), turns=("Hi.", *answer.turns))
    others = {"name": "other", "identity": "other", "decoding": Decoding(max_new_tokens=7)}
    replace(judge, **{change: others[change]} if change in others else {}).grades([answer])
    assert len(stub.heard) == 2


def test_what_arrived_before_a_failure_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    arriving = Judge(Stub(fails_after=2), "stub", ReplyCache(path)).arriving([Sheet(one) for one in answers(5)])
    assert sorted(position for position, _ in (next(arriving), next(arriving))) == [3, 4]
    with pytest.raises(UserError, match="down"):
        next(arriving)
    again = Stub()
    Judge(again, "stub", ReplyCache(path)).grades(answers(5))
    assert len(again.heard) == 3


def test_an_audit_takes_the_picture_away_and_exchanges_it() -> None:
    stub, asked = Stub(), answers(6)
    sheets = audit_sheets(asked, sample=4)
    assert [(sheet.round, sheet.shown) for sheet in sheets] == [
        *[(1, "picture")] * 4,
        *[(0, "removed")] * 4,
        *[(0, "exchanged")] * 4,
    ]
    grades = dict(Judge(stub, "stub").arriving(sheets))
    assert [(grades[position].round, grades[position].shown) for position in range(12)] == [
        (sheet.round, sheet.shown) for sheet in sheets
    ]
    shown = {}
    for talk in stub.heard:
        number = int(talk.messages[0].text.partition("on card ")[2][0])
        shown.setdefault(number, []).append(colour(talk)[0] if talk.pictures else None)
    for number, seen in shown.items():
        assert len(seen) == 3
        assert seen.count(number) == 1
        assert seen.count(None) == 1
    assert audit_sheets(asked, sample=4) == sheets


def test_an_audit_sees_many_pictures_before_it_sees_one_twice() -> None:
    several = [replace(one, model=model) for one in answers(5) for model in ("one", "two")]
    chosen = [sheet.answer.question.id for sheet in audit_sheets(several, sample=5) if sheet.round]
    assert len(set(chosen)) == 5


def test_each_picture_is_exchanged_for_another_one() -> None:
    questions = [question(number) for number in range(5)]
    others = exchanged_questions(questions)
    assert all(other.cluster != name for name, other in others.items())
    assert len({other.cluster for other in others.values()}) == 5
    assert exchanged_questions(questions[::-1]).keys() == others.keys()


def test_text_alone_has_nothing_to_take_away() -> None:
    text = [replace(one, question=replace(one.question, picture=None)) for one in answers(3)]
    in_parts = [
        replace(one, question=replace(one.question, parts=(("What?",),), image=f"record {n}")) for n, one in enumerate(text)
    ]
    assert {sheet.shown for asked in (text, in_parts) for sheet in audit_sheets(asked)} == {"picture"}
    stub = Stub()
    Judge(stub, "stub").grades(text)
    assert not any(talk.pictures for talk in stub.heard)


def test_pictures_among_the_words_are_shown_too() -> None:
    asked = question(1)
    source = asked.picture()
    within = replace(asked, picture=None, parts=((Picture(source), "What?"),))
    stub = Stub()
    Judge(stub, "stub").grades([Answer(within, CONDITIONS[0], ("red",))])
    assert stub.heard[0].pictures[0].source is source


def test_a_picture_is_opened_once_and_only_the_latest_are_kept() -> None:
    opened: list[int] = []
    questions = []
    for number in range(3):

        def picture(number: int = number) -> object:
            opened.append(number)
            return question(number).picture()

        questions.append(replace(question(number), picture=picture))
    pictures = OpenPictures(kept=2)
    for number in (0, 0, 1, 0, 2, 0):
        pictures.of(questions[number])
    assert opened == [0, 1, 2, 0]


def test_a_stream_is_cached_too() -> None:
    stub = Stub()
    model = CachedChatModel(stub, "stub", ReplyCache())
    talk = Conversation(()).said("user", "Hello")
    assert list(model.stream(talk, Decoding())) == [stub.reply[:4], stub.reply[4:]]
    assert list(model.stream(talk, Decoding())) == [stub.reply]
    assert model.answers([talk, talk], Decoding()) == [stub.reply] * 2
    assert len(stub.heard) == 1


def test_a_pictures_digest_is_of_what_it_holds(tmp_path: Path) -> None:
    one, other = question(1).picture(), question(2).picture()
    path = tmp_path / "one.png"
    one.save(path)
    assert picture_digest(one) == picture_digest(one.copy()) != picture_digest(other)
    assert picture_digest(path) == picture_digest(str(path)) == picture_digest(path.read_bytes())
    assert picture_digest("http://example.org/a.png") != picture_digest("http://example.org/b.png")
