"""Who said what: conversations to prompts and back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.conversation import SYSTEM_PROMPT, Conversation, Message, Picture, Piece, caption

CAT, DOG = Path("cat.jpg"), Path("dog.jpg")

# What people and owls say: any text without the marks of the original's prompt string.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1).filter(
    lambda text: "<image>" not in text and not text.startswith(("Human: ", "AI: "))
)
users = st.lists(st.one_of(words, st.builds(Picture, st.just(CAT))), min_size=1, max_size=4).map(
    lambda parts: Message("user", tuple(parts))
)
owls = words.map(lambda text: Message("assistant", (text,)))
conversations = st.builds(
    Conversation, st.lists(st.one_of(users, owls), max_size=5).map(tuple), st.one_of(st.none(), words, st.just(SYSTEM_PROMPT))
)


def test_the_originals_prompt() -> None:
    talk = Conversation(()).said("user", Picture(CAT), "What is it?").said("assistant", "A cat.").said("user", "Sure?")
    assert talk.prompt(end="</s>") == (
        f"{SYSTEM_PROMPT}\nHuman: <image>\nHuman: What is it?\nAI: A cat.</s>\nHuman: Sure?\nAI: "
    )


def test_pictures_in_front_have_their_own_lines_and_others_stay_where_they_are() -> None:
    talk = Conversation((), system=None).said("user", Picture(CAT), Picture(DOG), "Which of ", Picture(CAT), " is it?")
    assert talk.prompt(reply=False) == "Human: <image>\nHuman: <image>\nHuman: Which of <image> is it?"


def test_only_answers_are_learned_and_stand_on_their_own() -> None:
    talk = Conversation((), system="Be kind.").said("user", Picture(CAT), "And?").said("assistant", "A cat.")
    assert talk.pieces() == [
        Piece("Be kind.\nHuman: "),
        Piece(None),
        Piece("\nHuman: And?\nAI: "),
        Piece("A cat.", supervised=True),
    ]


def test_a_caption_is_a_picture_and_its_words() -> None:
    assert caption(CAT, "a cat").pieces() == [
        Piece("Human: "),
        Piece(None),
        Piece("\nAI: "),
        Piece("a cat", supervised=True),
    ]


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_answer_teaches_nothing(empty: str) -> None:
    talk = Conversation(()).said("user", "Hello").said("assistant", empty).said("user", "Still there?")
    assert not any(piece.supervised for piece in talk.pieces())


@given(conversations)
def test_a_prompt_read_back_is_the_same_prompt(talk: Conversation) -> None:
    prompt = talk.prompt(reply=False)
    again = Conversation.from_prompt(prompt, [picture.source for picture in talk.pictures])
    assert again.prompt(reply=False) == prompt
    assert again.answers == talk.answers
    assert [piece.supervised for piece in again.pieces()] == [piece.supervised for piece in talk.pieces()]


@pytest.mark.parametrize(
    "prompt",
    [
        "Human: <image> What is it?\nAI: A cat.",
        "Human: <image><image>\nHuman: What are they?\nAI: Cats.",
        "Human: one\nAI: \nHuman: two\nAI: OpenAI: is a name.",
        "You are an owl.\nHuman: Look at <image> here.\nAI: ",
        "no role marks at all",
        "",
    ],
)
def test_a_prompt_string_keeps_every_character(prompt: str) -> None:
    images = [CAT] * prompt.count("<image>")
    assert Conversation.from_prompt(prompt, images).prompt(reply=False) == prompt


def test_a_role_mark_inside_a_line_is_plain_text() -> None:
    assert Conversation.from_prompt("Human: who?\nAI: OpenAI: is a name.", []).answers == ("OpenAI: is a name.",)


def test_a_picture_before_the_first_mark_is_the_humans() -> None:
    talk = Conversation.from_prompt("Be kind.\n<image>\nHuman: What is it?\nAI: A cat.", [CAT])
    assert talk.prompt(reply=False) == "Be kind.\nHuman: <image>\nHuman: What is it?\nAI: A cat."


def test_marks_and_images_must_be_as_many() -> None:
    with pytest.raises(ValueError, match=r"^line 3: 2 <image> in the text but 1 images$"):
        Conversation.from_prompt("Human: <image><image> hi", [CAT], "line 3")


def test_an_answer_holds_no_picture() -> None:
    with pytest.raises(ValueError, match="<image> inside an answer"):
        Conversation.from_prompt("Human: draw\nAI: <image>", [CAT])


def test_chat_messages() -> None:
    talk = Conversation.from_chat(
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "image", "path": "cat.jpg"}, {"type": "text", "text": "A <image>?"}]},
            {"role": "assistant", "content": "A cat."},
        ]
    )
    assert talk.system == "Be kind."
    assert talk.messages == (Message("user", (Picture("cat.jpg"), "A <image>?")), Message("assistant", ("A cat.",)))


def test_chat_without_a_system_message_has_the_originals_and_an_empty_one_has_none() -> None:
    assert Conversation.from_chat([{"role": "user", "content": "hi"}]).system == SYSTEM_PROMPT
    assert Conversation.from_chat([{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]).system is None


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([{"role": "wizard", "content": "hi"}], "message 0 has role 'wizard'; expected system, user or assistant"),
        (["hi"], "message 0 is a str"),
        ([{"role": "user"}], "message 0 has content of type NoneType"),
        ([{"role": "user", "content": [{"type": "thing"}]}], "message 0, part 0 is"),
        ([{"role": "user", "content": [{"type": "video"}]}], "message 0, part 0 is of type 'video'"),
        ([{"role": "user", "content": "hi"}, {"role": "system", "content": "x"}], "it can only come first"),
        ([{"role": "system", "content": [{"type": "image", "image": "a"}]}], "pictures belong to the user"),
        ([{"role": "assistant", "content": [{"type": "image", "image": "a"}]}], "an owl answers in words"),
    ],
)
def test_wrong_chat_messages_are_named(messages: list, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Conversation.from_chat(messages, "chats.jsonl, line 2")


def test_an_answer_that_is_not_learned_ends_all_the_same() -> None:
    first, second = Message("assistant", ("A dog.",), supervised=False), Message("assistant", ("A cat.",))
    talk = Conversation((Message("user", ("What?",)), first, Message("user", ("Sure?",)), second), system=None)
    assert talk.pieces() == [
        Piece("Human: What?\nAI: "),
        Piece("A dog.", ended=True),
        Piece("\nHuman: Sure?\nAI: "),
        Piece("A cat.", supervised=True),
    ]
    assert talk.prompt(reply=False, end="</s>") == "Human: What?\nAI: A dog.</s>\nHuman: Sure?\nAI: A cat.</s>"
