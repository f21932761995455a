"""How an owl is asked: what each mode shows, dialogues with the owl's own answers, answers back in their places."""

from collections.abc import Sequence

import pytest

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.eval import answer as module
from mplug_owl.eval.answer import ask, examine
from mplug_owl.model.build import Owl
from tests.eval.quiz import SITTINGS, Quiz, problem
from tests.tiny import tiny_config, tiny_owl, tiny_processor


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Conversation]:
    """What a stand-in for the owl is asked; it says which card and line it was asked about, and how many messages it saw."""
    asked: list[Conversation] = []

    def say(owl: object, talks: Sequence[Conversation], decoding: Decoding, batch: int) -> list[str]:
        asked.extend(talks)
        return [f"{talk.messages[-1].text[-18:]} {len(talk.messages)}" for talk in talks]

    monkeypatch.setattr(module, "answer", say)
    return asked


def test_the_picture_is_shown_left_out_or_told(heard: list[Conversation]) -> None:
    seen = {}
    for mode in ("picture", "none", "told"):
        ask(None, [problem(3)], mode)
        seen[mode] = heard[-1]
    assert len(seen["picture"].pictures) == 1
    assert seen["picture"].pictures[0].source.getpixel((0, 0)) == (3, 90, 120)
    assert not seen["none"].pictures
    assert not seen["told"].pictures
    question = "What is on card 3, line 0?"
    assert [message.text for message in seen["picture"].messages] == ["", question]
    assert [message.text for message in seen["none"].messages] == [question]
    assert [message.text for message in seen["told"].messages] == ["card 3", question]


def test_a_dialogue_holds_the_owls_own_answers_and_one_picture(heard: list[Conversation]) -> None:
    (said,) = ask(None, [problem(7, turns=3)], "picture")
    last = heard[-1]
    assert last.answers == said[:2] == ("on card 7, line 0? 2", "on card 7, line 1? 4")
    assert said[2] == "on card 7, line 2? 6"
    assert len(last.pictures) == 1
    assert [message.role for message in last.messages] == ["user", *["user", "assistant"] * 2, "user"]


def test_answers_come_back_in_their_places_though_they_are_asked_by_length(heard: list[Conversation]) -> None:
    problems = [problem(number, turns=1 + number % 3) for number in (100, 2, 30, 1, 11, 9)]
    said = ask(None, problems, "none")
    assert [len(turns) for turns in said] == [len(one.turns) for one in problems]
    for one, turns in zip(problems, said, strict=True):
        assert [words.rsplit(" ", 1)[0] for words in turns] == [question[-18:] for question, _ in one.turns]
    first = [talk.messages[0].text for talk in heard[:6]]
    assert first == sorted(first, key=len)


def test_nothing_asked_is_nothing_said() -> None:
    assert ask(None, [], "picture") == []


def test_an_exam_is_every_sitting_graded(heard: list[Conversation], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiz, "correct", lambda quiz, problem, said: "card 6" in said)
    began = []
    answered = examine(None, Quiz(), 2, seed=5, began=began.append)
    assert tuple(began) == SITTINGS
    assert len(answered) == 3 * 4 + 2
    assert {one.problem.question for one in answered if one.correct} == {
        "What is on card 6, line 0?",
        "What is on card 6, line 1?",
    }
    row = next(one for one in answered if one.problem.ability == "talking").row()
    assert row == {
        "ability": "talking",
        "kind": "card",
        "split": "plain",
        "mode": "picture",
        "question": "What is on card 5, line 1?",
        "right": "line 1 of 5.",
        "said": "on card 5, line 1? 4",
        "correct": False,
        "before": [{"question": "What is on card 5, line 0?", "right": "line 0 of 5.", "said": "on card 5, line 0? 2"}],
    }
    assert [one.sitting for one in examine(None, Quiz(), 1, 0, SITTINGS[3:])] == [SITTINGS[3]]


def test_a_whole_owl_answers_the_same_alone_and_among_others() -> None:
    """Pictures and words padded to one width, in batches of one and of all."""
    model = tiny_owl(tiny_config())
    owl = Owl(model, tiny_processor(model))
    problems = [problem(number, turns=1 + number % 2) for number in (5, 60, 130)]
    together = ask(owl, problems, "picture")
    assert together == ask(owl, problems, "picture", batch=1)
    assert any(words for turns in together for words in turns)
