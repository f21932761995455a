"""A conversation as chat messages: roles in turn, nothing said lost."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.chat.messages import chat_messages
from mplug_owl.chat.prompts import documented_prompt
from mplug_owl.conversation import Conversation, Message, Picture

PARTS = st.one_of(st.text("abc \n", max_size=5), st.builds(Picture, st.sampled_from(["one.png", "two.png"])))
SAID = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.lists(PARTS, max_size=3)), max_size=6)


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    return chat_messages(conversation, lambda source: {"type": "image", "image": source})


def test_the_system_sentence_comes_first_and_pictures_stand_where_they_were() -> None:
    talk = Conversation((), "Be short.").said("user", Picture("a.png")).said("user", "What", Picture("b.png"), "is it?")
    assert messages(talk.said("assistant", "A dog.")) == [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "a.png"},
                {"type": "text", "text": "What"},
                {"type": "image", "image": "b.png"},
                {"type": "text", "text": "is it?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    ]


def test_a_conversation_is_not_changed_by_its_messages() -> None:
    talk = Conversation((), None).said("user", "a").said("user", "b")
    assert messages(talk) == messages(talk)


@given(SAID)
def test_roles_take_turns_and_nothing_is_lost(said: list[tuple[Any, list[Any]]]) -> None:
    made = messages(Conversation(tuple(Message(role, tuple(parts)) for role, parts in said), None))
    assert all(one["role"] != other["role"] for one, other in pairwise(made))
    for role in ("user", "assistant"):
        parts = [part for message in made if message["role"] == role for part in message["content"]]
        pictures = [part["image"] for part in parts if part["type"] == "image"]
        assert pictures == [part.source for one, parts in said if one == role for part in parts if isinstance(part, Picture)]
        words = "".join(part["text"] for part in parts if part["type"] == "text").replace("\n", "")
        assert words == "".join(part for one, parts in said if one == role for part in parts if isinstance(part, str)).replace(
            "\n", ""
        )


def test_a_picture_alone_asks_blip2_for_a_caption() -> None:
    alone = chat_messages(Conversation((), None).said("user", Picture("cat.png")), lambda source: {"type": "image"})
    assert documented_prompt(alone, "blip-2") == documented_prompt(alone, "instructblip") == ""
