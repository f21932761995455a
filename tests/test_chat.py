"""Talking with an owl that knows eight scenes by heart."""

import re
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as some
from transformers import GenerationConfig

from mplug_owl import Conversation, Picture
from mplug_owl.chat import Chat, Decoding, OwlChatModel
from mplug_owl.chat.settled import clean_answer, settled_answer
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl
from tests.school import SCENES, SEED, taught
from tests.world import Scene, scenes

SHOWN = list(scenes(SCENES, SEED))


@pytest.fixture(scope="module")
def owl() -> Owl:
    return taught()


def answers(owl: Owl, talks: list[Conversation], decoding: Decoding | None = None, batch: int = 8) -> list[str]:
    return OwlChatModel(owl, batch).answers(talks, decoding or Decoding())


def asked(scene: Scene, turns: int = 1) -> Conversation:
    """The conversation up to a question, earlier answers right."""
    talk = Conversation(()).said("user", Picture(scene.draw()), scene.questions()[0][0])
    for (_, right), (question, _) in zip(scene.questions()[: turns - 1], scene.questions()[1:turns], strict=True):
        talk = talk.said("assistant", right).said("user", question)
    return talk


def test_three_lines_are_a_chat(owl: Owl, caplog: pytest.LogCaptureFixture) -> None:
    chat, scene = Chat(owl), SHOWN[0]
    (question, right), *_ = scene.questions()
    assert chat.ask(question, images=[scene.draw()]) == right
    assert not caplog.records  # transformers complains about nothing


def test_it_remembers_what_was_said_and_shown(owl: Owl) -> None:
    chat, scene = Chat(owl), SHOWN[0]
    picture = scene.draw()
    for turn, (question, right) in enumerate(scene.questions()):
        assert chat.ask(question, [picture] if turn == 0 else []) == right
    assert [message.role for message in chat.conversation.messages] == ["user", "assistant"] * 3
    assert chat.conversation.answers == tuple(right for _, right in scene.questions())
    assert len(chat.conversation.pictures) == 1
    chat.forget()
    assert chat.conversation == Conversation(())


def test_it_looks(owl: Owl) -> None:
    """The same question about two pictures has two answers."""
    first, *others = [scene for scene in SHOWN if scene.questions()[0][0] == "What shape is it?"]
    other = next(scene for scene in others if scene.shape != first.shape)
    said = [Chat(owl).ask("What shape is it?", [scene.draw()]) for scene in (first, other)]
    assert said == [f"It is a {first.shape}.", f"It is a {other.shape}."]


def test_words_come_one_by_one_and_are_the_whole_answer(owl: Owl) -> None:
    words = list(OwlChatModel(owl).stream(asked(SHOWN[1]), Decoding()))
    assert len(words) > 2
    assert "".join(words) == answers(owl, [asked(SHOWN[1])])[0] == SHOWN[1].questions()[0][1]


def test_it_ends_where_the_answer_ends_or_where_it_must(owl: Owl) -> None:
    whole = answers(owl, [asked(SHOWN[0])], Decoding(max_new_tokens=200))[0]
    assert whole == SHOWN[0].questions()[0][1]
    (short,) = answers(owl, [asked(SHOWN[0])], Decoding(max_new_tokens=2))
    assert short
    assert whole.startswith(short)
    assert len(short) < len(whole)


def test_a_batch_says_what_each_would_alone(owl: Owl) -> None:
    """Text alone, one picture, several turns and several pictures, padded to one length."""
    two = Conversation(()).said("user", Picture(SHOWN[0].draw()), Picture(SHOWN[1].draw()), "What shape is it?")
    text = Conversation(()).said("user", "What shape is it?")
    apart = Conversation((), system=None).said("user", "One", Picture(SHOWN[2].draw()), "two", Picture(SHOWN[2].draw()))
    talks = [text, asked(SHOWN[0]), two, asked(SHOWN[3], turns=3), apart, asked(SHOWN[4], turns=2)]
    alone = [answers(owl, [talk])[0] for talk in talks]
    assert answers(owl, talks) == alone
    assert answers(owl, talks, batch=4) == alone
    assert all(alone)


def test_no_conversations_have_no_answers(owl: Owl) -> None:
    assert answers(owl, []) == []


def test_a_picture_may_be_a_path_or_bytes(owl: Owl, tmp_path: Path) -> None:
    scene = SHOWN[0]
    scene.draw().save(file := tmp_path / "scene.png")
    question, right = scene.questions()[0]
    assert [Chat(owl).ask(question, [image]) for image in (file, str(file), file.read_bytes())] == [right] * 3


def test_a_bad_picture_leaves_the_history_as_it_was(owl: Owl, tmp_path: Path) -> None:
    chat = Chat(owl)
    chat.ask(SHOWN[0].questions()[0][0], [SHOWN[0].draw()])
    before = chat.conversation
    (tmp_path / "notes.txt").write_text("no picture")
    for bad in (tmp_path / "absent.png", tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=bad.name):
            chat.ask("And this?", [bad])
        assert chat.conversation == before


def test_what_fails_inside_reaches_the_caller(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    chat = Chat(owl)
    monkeypatch.setattr(type(owl.model), "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        chat.ask("What is it?")
    assert chat.conversation == Conversation(())


def test_an_answer_that_nobody_waits_for_is_not_history(owl: Owl) -> None:
    chat = Chat(owl)
    words = chat.stream(SHOWN[0].questions()[0][0], [SHOWN[0].draw()])
    next(words)
    words.close()
    assert chat.conversation == Conversation(())


def test_words_can_be_drawn(owl: Owl) -> None:
    """The same ones for a seed, whole or as they come."""
    decoding = Decoding(max_new_tokens=12, temperature=3.0, top_p=1.0)
    said = {}
    for seed in range(4):
        torch.manual_seed(seed)
        said[seed] = answers(owl, [asked(SHOWN[0])], decoding)[0]
    assert len(set(said.values())) > 1
    for seed, words in said.items():
        torch.manual_seed(seed)
        assert "".join(OwlChatModel(owl).stream(asked(SHOWN[0]), decoding)) == words


@pytest.mark.parametrize("stop", [(" is",), ("e is",), ("nowhere", "square is"), ("square", "The"), (".",), ("nowhere",)])
def test_an_answer_ends_before_its_first_stop_word(owl: Owl, stop: tuple[str, ...]) -> None:
    """Whole or as it comes, alone or in a batch whose other rows stop elsewhere; a part of a stop word is never shown."""
    talks = [asked(scene) for scene in SHOWN[:4]]
    whole, cut = answers(owl, talks), answers(owl, talks, Decoding(stop=stop))
    for long, short in zip(whole, cut, strict=True):
        assert short == long[: min((long.index(word) for word in stop if word in long), default=None)].strip()
    assert ["".join(OwlChatModel(owl).stream(talk, Decoding(stop=stop))) for talk in talks] == cut


def test_no_token_is_generated_after_a_stop_word(owl: Owl) -> None:
    model = OwlChatModel(owl)
    assert "".join(model.stream(asked(SHOWN[0]), Decoding(stop=("is",)))) == "The square"
    assert owl.processor.decode(model._past.ids).endswith("AI:  The square")  # what ended it was never given to the model


@given(
    some.text(alphabet="ab \n\ufffdé", max_size=12),
    some.lists(some.text(alphabet="ab ", min_size=1, max_size=3), max_size=3),
    some.integers(0, 12),
)
def test_what_is_shown_of_an_unfinished_answer_begins_the_finished_one(answer: str, stop: list[str], length: int) -> None:
    """A token may bring several characters, and none comes after a stop word."""
    assume(length >= len(answer) or not any(word in answer[:length] for word in stop))
    assert clean_answer(answer, stop).startswith(settled_answer(answer[:length], stop))


@given(some.text(alphabet="ab ", max_size=12), some.lists(some.text(alphabet="ab", min_size=1, max_size=3), max_size=3))
def test_stop_words_that_overlap_end_an_answer_where_the_first_begins(answer: str, stop: list[str]) -> None:
    begins = [begin for begin in range(len(answer)) if any(answer.startswith(word, begin) for word in stop)]
    assert clean_answer(answer, stop) == answer[: min(begins, default=None)].strip()


@pytest.mark.parametrize("question", ["caf\udce9", "\udcff"])
def test_bytes_that_are_no_text_are_refused_and_the_history_stays(owl: Owl, question: str) -> None:
    chat = Chat(owl)
    with pytest.raises(UserError, match="the question holds bytes that are no UTF-8"):
        chat.ask(question)
    assert chat.conversation == Conversation(())


@pytest.mark.parametrize(
    ("question", "images", "problem"),
    [
        (None, (), "the question is None; expected text"),
        (b"Hm?", (), "the question is b'Hm?'; expected text"),
        ("Hm?", "a.jpg", "images is one picture; expected a list of them"),
    ],
)
def test_what_is_no_question_and_no_list_of_pictures_is_refused(question: object, images: object, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        Chat(object()).ask(question, images)  # type: ignore[arg-type]


def test_any_chat_model_can_be_talked_with() -> None:
    class Parrot:
        def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
            return [talk.messages[-1].text for talk in conversations]

        def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
            yield from self.answers([conversation], decoding)[0]

    chat = Chat(Parrot())
    assert [chat.ask("Hello"), chat.ask("Again")] == ["Hello", "Again"]
    assert chat.conversation.answers == ("Hello", "Again")


@pytest.mark.parametrize("decoding", [Decoding(temperature=2), Decoding(repetition_penalty=2)])
def test_a_whole_number_is_a_number(owl: Owl, decoding: Decoding) -> None:
    assert isinstance(answers(owl, [asked(SHOWN[0])], decoding)[0], str)


def test_what_a_checkpoint_says_of_generation_is_not_asked(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = GenerationConfig(
        max_length=3, do_sample=True, temperature=9.0, repetition_penalty=9.0, num_beams=2, min_new_tokens=99
    )
    monkeypatch.setattr(owl.model, "generation_config", odd)
    assert answers(owl, [asked(SHOWN[0])]) == [SHOWN[0].questions()[0][1]]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected at least 1"),
        ({"temperature": -1.0}, "temperature is -1; expected at least 0"),
        ({"top_p": 0.0}, "top_p is 0; expected above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5; expected above 0 and at most 1"),
        ({"stop": ("a", "")}, "stop is ('a', ''); expected words, none of them empty"),
        ({"stop": "a"}, "stop is 'a'; expected words"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0; expected above 0"),
    ],
)
def test_a_decoding_that_cannot_be_is_refused(wrong: dict, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        Decoding(**wrong)
