"""The engine as a ChatModel: what `owl chat` says, beside others, whoever asks."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mplug_owl.chat import ChatModel, Decoding, OwlChatModel
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import BadSample, UserError
from mplug_owl.eval.answer import ask
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.model.load import Owl
from mplug_owl.serve.chat_model import EngineChatModel
from mplug_owl.serve.engine import ClosedError, Engine
from mplug_owl.serve.lane import Lane, LaneLimits
from tests.chat.test_decode import made, talks


@pytest.fixture(scope="module")
def owl() -> Owl:
    return made("llama")


@pytest.fixture
def engine(owl: Owl) -> Iterator[Engine]:
    found = Engine({"owl": Lane(owl, LaneLimits(rows=3))}, queue=4)
    found.start()
    yield found
    found.close()


def test_it_says_what_owl_chat_says(owl: Owl, engine: Engine) -> None:
    """More conversations than the queue holds, from two threads at once; drawn words follow torch's seed."""
    model, other, decoding = EngineChatModel("owl", owl, engine), OwlChatModel(owl), Decoding(max_new_tokens=6, stop=("e",))
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(model.answers(talks(), decoding))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = other.answers(talks(), decoding)
    assert found == [expected, expected]
    assert ["".join(model.stream(talk, decoding)) for talk in talks()] == expected
    drawn = Decoding(max_new_tokens=6, temperature=1.0)
    torch.manual_seed(3)
    one = model.answers(talks(4), drawn)
    torch.manual_seed(3)
    assert model.answers(talks(4), drawn) == one


def test_an_exam_goes_through_it(owl: Owl, engine: Engine) -> None:
    """As `owl eval` asks, so that an exam of one's own can share a server's engine."""
    questions = DrawnWorld().questions("seen", 1, 0)
    condition = DrawnWorld().conditions[0]
    ways: list[ChatModel] = [EngineChatModel("owl", owl, engine), OwlChatModel(owl)]
    first, second = ([answer.turns for answer in ask(model, questions, condition)] for model in ways)
    assert first == second


def test_what_goes_wrong_is_said(owl: Owl, engine: Engine, tmp_path: Path) -> None:
    model = EngineChatModel("owl", owl, engine)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(BadSample):
        model.answers([Conversation(()).said("user", Picture(tmp_path / "a.png"), "What?")], Decoding())
    with pytest.raises(UserError, match="positions"):
        model.answers([Conversation(()).said("user", "a" * 2000)], Decoding())
    lane: Any = engine.batches["owl"]
    steps, step = [], lane.rows.step
    lane.rows.step = lambda: (steps.append(1), step())
    stream = model.stream(talks()[0], Decoding(max_new_tokens=300))
    next(stream)
    stream.close()
    while lane.busy:
        time.sleep(0.001)
    assert len(steps) < 150
    engine.close()
    with pytest.raises(ClosedError):
        model.answers(talks(1), Decoding())
