"""What a conversation computed is kept: the same words as anew, for every kind of cache, and only what is new is computed."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mplug_owl import Conversation, Message, Picture
from mplug_owl.chat import Chat, Decoding, OwlChatModel
from mplug_owl.conversation import PLAIN
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl
from tests.chat.test_decode import Spelling
from tests.tiny import LANGUAGES, tiny_config, tiny_owl, tiny_processor
from tests.tiny import picture as tiny_picture

DECODING = Decoding(max_new_tokens=12)
# Keys and values; convolutions; positions as a slope; sliding windows of 8, shorter than one picture with its words.
CACHES = ("llama", "lfm2", "bloom", "gemma3", "gpt2", "opt")


def owl(language: str) -> Owl:
    language, _, window = language.partition(" with a window of ")
    config = tiny_config(language=language)
    if window:
        config.text_config.sliding_window = int(window)
    model = tiny_owl(config)
    return Owl(model, tiny_processor(model))


class Counted:
    """How many positions the language model computes at a time, and how many pictures are looked at."""

    def __init__(self, made: Owl) -> None:
        self.positions: list[int] = []
        self.pictures = 0
        made.model.model.language_model.register_forward_pre_hook(self._compute, with_kwargs=True)
        made.model.model.vision_tower.register_forward_pre_hook(self._look, with_kwargs=True)

    def _compute(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.positions.append(kwargs["inputs_embeds"].shape[1])

    def _look(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.pictures += len(kwargs["pixel_values"])

    def question(self) -> tuple[int, int]:
        """Positions of the prompt that the last question computed, and pictures, since the last call."""
        found = self.positions[0], self.pictures
        self.positions, self.pictures = [], 0
        return found


def turns() -> Iterator[tuple[str, list]]:
    """Questions of a conversation: about a picture, about it again, about two, about nothing new."""
    yield "What is it?", [tiny_picture(1)]
    yield "Where?", []
    yield "And this one?", [tiny_picture(2)]
    yield "Are they alike?", []


@pytest.mark.parametrize("language", CACHES)
def test_the_words_are_those_of_a_conversation_computed_anew(language: str) -> None:
    """And each question computes what is new alone, however its language model remembers."""
    made = owl(language)
    chat, counted = Chat(Spelling(made), decoding=DECODING), Counted(made)
    known = 0
    for question, images in turns():
        before = chat.conversation
        asked = before.said("user", *map(Picture, images), question)
        answer = chat.ask(question, images)
        prompt = len(made.processor.encode(asked, reply=True))
        assert counted.question() == (prompt - known, len(images))
        known = prompt + len(answer) - 1  # nobody computes what follows the last letter
        assert Spelling(made).answers([asked], DECODING) == [answer]
        counted.question()


@pytest.mark.parametrize("language", LANGUAGES)
def test_so_they_are_where_the_words_have_other_tokens_than_were_generated(language: str) -> None:
    """Random bytes: halves of characters become question marks, spaces go, and the history is not what was generated."""
    made = owl(language)
    chat, again = Chat(made, decoding=DECODING), 0
    for question, images in turns():
        asked = chat.conversation.said("user", *map(Picture, images), question)
        generated = made.processor.tokenizer(answer := chat.ask(question, images), add_special_tokens=False)["input_ids"]
        again += tuple(generated) != chat.model._past.ids[-len(generated) :]
        assert OwlChatModel(made).answers([asked], DECODING) == [answer]
    assert again


@pytest.mark.parametrize(
    ("language", "anew"), [("llama", False), ("lfm2", True), ("gemma3", True), ("gemma3 with a window of 400", False)]
)
def test_another_question_to_the_same_picture_keeps_what_can_be_kept(language: str, anew: bool) -> None:
    """Keys and values are cut where two prompts part. Convolutions and full windows forget: they begin anew; pictures stay."""
    made, shown = owl(language), Picture(tiny_picture(1))
    model, counted = Spelling(made), Counted(made)
    first, second = (Conversation(()).said("user", shown, words) for words in ("What is it?", "What colour is it?"))
    "".join(model.stream(first, DECODING))
    counted.question()
    said = "".join(model.stream(second, DECODING))
    prompt = len(made.processor.encode(second, reply=True))
    computed, looked = counted.question()
    assert looked == 0
    assert computed == prompt if anew else computed < len("colour is it?\nAI: ") + 5
    assert Spelling(made).answers([second], DECODING) == [said]


def looked_at(model: OwlChatModel, counted: Counted, talk: Conversation, known: int) -> int:
    """Ask about a picture of which nothing is known; returns how many tokens are known in front of it."""
    ids = model.processor.encode(talk, reply=True).ids
    said = "".join(model.stream(talk, DECODING))
    assert counted.question() == (len(ids) - known, 1)
    assert Spelling(Owl(model.model, model.processor)).answers([talk], DECODING) == [said]
    counted.question()
    return ids.index(model.processor.image_token_id)


def test_another_picture_with_the_same_words_is_looked_at() -> None:
    """Its positions have the same ids as the last one's, and other features: all from there on is computed."""
    made = owl("llama")
    model, counted, known = Spelling(made), Counted(made), 0
    for seed in (1, 2):
        talk = Conversation(()).said("user", Picture(tiny_picture(seed)), "What is it?")
        known = looked_at(model, counted, talk, known)


@pytest.mark.parametrize("kind", ["file", "opened"])
def test_a_picture_that_was_changed_is_looked_at_again(tmp_path: Path, kind: str) -> None:
    """The same path, or the same object, and other pixels."""
    made, shown, known = owl("llama"), tiny_picture(1), 0
    model, counted, file = Spelling(made), Counted(made), str(tmp_path / "shown.png")
    for seed in (1, 2):
        shown.paste(tiny_picture(seed))
        shown.save(file)
        talk = Conversation(()).said("user", Picture(file if kind == "file" else shown), "What is it?")
        known = looked_at(model, counted, talk, known)


def test_a_picture_that_was_changed_after_its_answer_was_stopped_is_looked_at_again() -> None:
    """Asked again as it was, nothing of it is computed anew; what its owner drew on it meanwhile is seen."""
    made, shown = owl("llama"), tiny_picture(1)
    chat, counted = Chat(Spelling(made), decoding=DECODING), Counted(made)
    looked = []
    for seed in (1, 1, 2):
        shown.paste(tiny_picture(seed))
        answer = chat.stream("What is it?", [shown])
        next(answer)
        answer.close()
        looked.append(counted.question()[1])
    assert looked == [1, 0, 1]
    assert chat.ask("What is it?", [shown]) == Chat(Spelling(made), decoding=DECODING).ask("What is it?", [tiny_picture(2)])


def test_one_of_several_pictures_may_be_known() -> None:
    made, first = owl("llama"), Picture(tiny_picture(1))
    model, counted = Spelling(made), Counted(made)
    for others in ([], [Picture(tiny_picture(2))], [Picture(tiny_picture(3)), Picture(tiny_picture(4))]):
        talk = Conversation(()).said("user", first, *others, "Which?")
        said = "".join(model.stream(talk, DECODING))
        assert counted.question()[1] == (len(others) or 1)
        assert Spelling(made).answers([talk], DECODING) == [said]
        counted.question()


def test_a_picture_at_the_end_of_a_prompt_is_known_whole_or_not_at_all() -> None:
    """The last token is always computed; here it is a picture's, so all of that picture's are."""
    made = owl("llama")
    model, counted = Spelling(made), Counted(made)
    bare = Conversation((Message("user", (Picture(tiny_picture(1)),)),), system=None, style=PLAIN)
    first, again = ("".join(model.stream(bare, DECODING)) for _ in range(2))
    assert first == again == Spelling(made).answers([bare], DECODING)[0]
    assert counted.positions[DECODING.max_new_tokens] == made.processor.num_image_tokens


def test_a_repetition_penalty_counts_what_is_in_the_cache_too() -> None:
    made, decoding = owl("llama"), Decoding(max_new_tokens=20, repetition_penalty=1.8)
    chat = Chat(Spelling(made), decoding=decoding)
    for question, images in turns():
        asked = chat.conversation.said("user", *map(Picture, images), question)
        assert Spelling(made).answers([asked], decoding) == [chat.ask(question, images)]
    assert len(set(chat.conversation.answers[0])) > len(set(Spelling(made).answers([asked], Decoding(max_new_tokens=20))[0]))


def test_after_a_failure_everything_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made = owl("llama")
    model, counted = Spelling(made), Counted(made)
    talk = Conversation(()).said("user", Picture(tiny_picture(1)), "What is it?")
    said = "".join(model.stream(talk, DECODING))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(type(made.model), "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(model.stream(talk, DECODING))
    counted.question()
    assert "".join(model.stream(talk, DECODING)) == said
    assert counted.question() == (len(made.processor.encode(talk, reply=True)), 1)


# Stopping


def test_closing_the_stream_ends_generation_at_once() -> None:
    made = owl("llama")
    chat, counted = Chat(Spelling(made), decoding=Decoding(max_new_tokens=400)), Counted(made)
    words = chat.stream("What is it?", [tiny_picture(1)])
    next(words)
    computed = len(counted.positions)
    words.close()
    assert len(counted.positions) == computed <= 2  # the prompt, and at most the token that settled the first word
    assert chat.conversation == Conversation(())


def test_two_answers_in_turn_do_not_share_what_is_computed() -> None:
    """Each token of one comes between two of the other's, from one model: as if each were alone."""
    made = owl("llama")
    model, shown = Spelling(made), Picture(tiny_picture(1))
    talks = [Conversation(()).said("user", shown, words) for words in ("What is it?", "What is that, and where?")]
    said = ["", ""]
    for parts in zip_longest(*(model.stream(talk, DECODING) for talk in talks), fillvalue=""):
        said = [before + part for before, part in zip(said, parts, strict=True)]
    assert said == Spelling(made).answers(talks, DECODING)


def test_after_a_stopped_answer_the_conversation_is_as_before() -> None:
    made, shown = owl("llama"), tiny_picture(1)
    chat, counted = Chat(Spelling(made), decoding=DECODING), Counted(made)
    words = chat.stream("What is it?", [shown])
    next(words)
    words.close()
    counted.question()
    said = chat.ask("What is it?", [shown])
    assert counted.question() == (1, 0)
    assert Spelling(made).answers([Conversation(()).said("user", Picture(shown), "What is it?")], DECODING) == [said]


# Positions


@pytest.mark.parametrize("language", ["llama", "opt", "gpt2"])
def test_a_conversation_longer_than_the_models_positions_is_refused(language: str) -> None:
    """512 of them, a token a letter: an answer ends at the last one, and where there is no room for one it says so."""
    made = owl(language)
    chat = Chat(Spelling(made), Conversation((), system=None), Decoding(max_new_tokens=300))
    prompt = len(made.processor.encode(chat.conversation.said("user", "a" * 400), reply=True))
    assert len(chat.ask("a" * 400)) == 512 - prompt
    before = chat.conversation
    with pytest.raises(UserError, match="512"):
        chat.ask("and now?")
    assert chat.conversation == before


def test_bloom_has_positions_without_end() -> None:
    made = owl("bloom")
    del made.model.config.text_config.max_position_embeddings  # which BLOOM's own config files do not have
    chat = Chat(Spelling(made), Conversation((), system=None), Decoding(max_new_tokens=3))
    assert len(chat.ask("a" * 600)) == 3


def test_words_can_be_drawn_with_a_cache() -> None:
    made = owl("llama")
    chat = Chat(Spelling(made), decoding=Decoding(max_new_tokens=12, temperature=2.0, top_p=1.0))
    torch.manual_seed(1)
    assert chat.ask("What is it?", [tiny_picture(1)]) != chat.ask("What is it?")
