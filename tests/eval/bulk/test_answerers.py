"""Who answers a whole data set, and what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest

from mplug_owl.chat import Decoding, EndpointChatModel, arriving, find
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import RefusedConversationError
from mplug_owl.eval.bulk import run as run_module
from mplug_owl.eval.bulk.run import AnswerJob

SERVER = AnswerJob("http://nobody/v1#parrot", "questions.jsonl", Path("answers.jsonl"))


def test_a_server_has_no_device_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun gives each process a GPU, which is none of the server's."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(run_module.torch.cuda, "is_available", lambda: True)
    assert isinstance(SERVER.answerer(), EndpointChatModel)


@pytest.mark.parametrize(("given", "used"), [(3, 3), (None, 32)])
def test_as_many_are_answered_at_once_as_was_said(given: int | None, used: int) -> None:
    assert replace(SERVER, model="language:tiny-language", batch=given).answerer().batch_size == used


@pytest.mark.parametrize("talk", [Conversation(()).said("user", "word " * 9999), Conversation(()).said("user", Picture("x"))])
def test_a_language_model_refuses_what_it_cannot_read(talk: Conversation) -> None:
    with pytest.raises(RefusedConversationError):
        list(arriving(find("language:tiny-language", "cpu"), [talk], Decoding()))
