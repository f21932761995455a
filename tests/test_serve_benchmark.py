"""The benchmark of the server: what it compares are the same kinds of questions."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import serve
from benchmarks.serve import Asked, Crowd
from benchmarks.serve_client import Reply
from mplug_owl.chat import Decoding
from mplug_owl.scenes import exam
from mplug_owl.scenes.abilities import ABILITIES


def test_one_client_and_owl_chat_are_asked_of_every_ability(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have fewer questions than the crowd. Answers of one ability alone would have another length than all."""
    asked: list[set[str]] = []

    def note(words: list[str], seed: int) -> None:
        abilities = {item.turns[0][0]: item.ability for item in exam(8, "seen", seed)}
        asked.append({abilities[said] for said in words})

    async def crowd(port: int, bodies: Sequence[Any], clients: int) -> Crowd:
        words = [body["messages"][0]["content"][-1]["text"] for body in bodies]
        note(words, 0 if clients > 1 else 50)
        reply = Reply(200, "yes", 0.1, 0.2, {"completion_tokens": 2}, whole=True)
        return Crowd(clients, [reply] * len(bodies), 1.0)

    def alone(model: object, few: Sequence[Asked], decoding: Decoding) -> tuple[float, list[str]]:
        note([one.talk.messages[-1].text for one in few], 0)
        return 2.0, ["yes"] * len(few)

    monkeypatch.setattr(serve, "crowd", crowd)
    monkeypatch.setattr(serve, "alone", alone)
    serve.compared("exam questions", 0, None, 1, Decoding(), {})  # type: ignore[arg-type]
    assert asked == [set(ABILITIES)] * 3
    assert "answers other than owl chat's: 0 of 8" in capsys.readouterr().out
