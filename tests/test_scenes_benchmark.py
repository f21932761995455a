"""The benchmark of the drawn world, at a small size: it measures, and the world is drawn fast."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks import scenes
from benchmarks.scenes import answer_times, drawn_per_second
from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.scenes import world
from mplug_owl.scenes.abilities import ABILITIES


def test_scenes_are_drawn_by_the_thousand() -> None:
    """The bar is 3,000 a second on a core of its own; CPU time counts here, so others may share it."""
    assert drawn_per_second(300) > 1000


def test_a_few_answers_are_of_every_ability(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def exam(count: int, split: str, seed: int) -> list[SimpleNamespace]:
        shown = next(world.scenes(1, seed))
        return [SimpleNamespace(scene=shown, turns=((ability, ""),)) for ability in ABILITIES for _ in range(count)]

    class Listens:
        def __init__(self, owl: object) -> None:
            """Nothing is loaded."""

        def stream(self, talk: Conversation, decoding: Decoding) -> Iterator[str]:
            asked.append(talk.messages[-1].text)
            yield "yes"

    monkeypatch.setattr(scenes, "load", lambda *_, **__: None)
    monkeypatch.setattr(scenes, "OwlChatModel", Listens)
    monkeypatch.setattr(scenes, "exam", exam)
    scenes.answer_times(6)
    assert sorted(asked[3:]) == sorted(ABILITIES)


def test_answers_are_timed_from_first_word_to_last() -> None:
    first, whole = answer_times(3)
    assert len(first) == len(whole) == 3
    assert all(0 < one <= other for one, other in zip(first, whole, strict=True))
