"""How a model is asked: what each mode shows, dialogues with the model's own answers, answers back in their places."""

import pytest

from mplug_owl.chat import OwlChatModel
from mplug_owl.eval.answer import ask
from mplug_owl.model.load import Owl
from tests.eval.quiz import CONDITIONS, Listener, question
from tests.tiny import tiny_config, tiny_owl, tiny_processor

SHOWN, HIDDEN, DESCRIBED, _ = CONDITIONS


@pytest.fixture
def model() -> Listener:
    return Listener()


def test_the_picture_is_shown_left_out_or_described(model: Listener) -> None:
    seen = {}
    for condition in (SHOWN, HIDDEN, DESCRIBED):
        ask(model, [question(3)], condition)
        seen[condition.mode] = model.heard[-1]
    assert len(seen["picture"].pictures) == 1
    assert seen["picture"].pictures[0].source.getpixel((0, 0)) == (3, 90, 120)
    assert not seen["none"].pictures
    assert not seen["description"].pictures
    words = "What is on card 3, line 0?"
    assert [message.text for message in seen["picture"].messages] == ["", words]
    assert [message.text for message in seen["none"].messages] == [words]
    assert [message.text for message in seen["description"].messages] == ["card 3", words]


def test_a_dialogue_holds_the_models_own_answers_and_one_picture(model: Listener) -> None:
    (answer,) = ask(model, [question(7, turns=3)], SHOWN)
    last = model.heard[-1]
    assert last.answers == answer.turns[:2] == ("on card 7, line 0? 2", "on card 7, line 1? 4")
    assert answer.text == answer.turns[2] == "on card 7, line 2? 6"
    assert len(last.pictures) == 1
    assert [message.role for message in last.messages] == ["user", *["user", "assistant"] * 2, "user"]


def test_answers_come_back_in_their_places_though_they_are_asked_by_length(model: Listener) -> None:
    questions = [question(number, turns=1 + number % 3) for number in (100, 2, 30, 1, 11, 9)]
    answers = ask(model, questions, HIDDEN)
    assert [answer.question for answer in answers] == questions
    for one, answer in zip(questions, answers, strict=True):
        assert [words.rsplit(" ", 1)[0] for words in answer.turns] == [asked[-18:] for asked, _ in one.turns]
    first = [talk.messages[0].text for talk in model.heard[:6]]
    assert first == sorted(first, key=len)


def test_nothing_asked_is_nothing_answered(model: Listener) -> None:
    assert ask(model, [], SHOWN) == []


def test_a_whole_owl_answers_the_same_alone_and_among_others() -> None:
    """Pictures and words padded to one width, in batches of one and of all."""
    model = tiny_owl(tiny_config())
    owl = Owl(model, tiny_processor(model))
    questions = [question(number, turns=1 + number % 2) for number in (5, 60, 130)]
    together = [answer.turns for answer in ask(OwlChatModel(owl), questions, SHOWN)]
    assert together == [answer.turns for answer in ask(OwlChatModel(owl, batch_size=1), questions, SHOWN)]
    assert any(words for turns in together for words in turns)
