"""What an answer took: counted by hand, and by a clock that is set by hand."""

import pytest

from mplug_owl.chat import Decoding, OwlChatModel, stats
from mplug_owl.chat.stats import Stopwatch, Work
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import Owl
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor


def watched(parts: list[str], moments: list[float], monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """An answer of these parts; the clock is asked at the beginning, at the first word and at the end."""
    clock = iter(moments)
    monkeypatch.setattr(stats, "perf_counter", lambda: next(clock))
    watch = Stopwatch(stats.perf_counter())
    assert list(watch.watch(parts)) == parts
    return watch


def test_the_line_says_when_the_first_word_came_and_how_fast_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watched(["a red", " heart and", " a star"], [100.0, 100.5, 101.5], monkeypatch)
    assert watch.line(Work(57, 41, 7, 0.3)) == (
        "first word after 0.50 s · 6 words (7 tokens) in 1.50 s · 5.0 words a second after the first · "
        "pictures 20% of the time · prompt 57 tokens, 41 known from before"
    )
    assert watch.line(None) == "first word after 0.50 s · 6 words in 1.50 s · 5.0 words a second after the first"


def test_one_word_and_none_have_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(["red"], [0.0, 0.25, 0.25], monkeypatch).line(None) == "first word after 0.25 s · 1 word in 0.25 s"
    assert watched([], [0.0, 0.75], monkeypatch).line(None) == "0 words in 0.75 s"


def test_our_own_models_count_their_work() -> None:
    owl = tiny_owl(tiny_config())
    model = OwlChatModel(Owl(owl, tiny_processor(owl)))
    assert model.work is None
    asked = Conversation(()).said("user", Picture(picture()), "What?")
    said = "".join(model.stream(asked, Decoding(max_new_tokens=5)))
    first = model.work
    assert first is not None
    assert first.prompt_tokens == len(model.processor.encode(asked, reply=True))
    assert (first.known_tokens, first.picture_seconds > 0) == (0, True)
    assert 1 <= first.answer_tokens <= 5
    list(model.stream(asked.said("assistant", said).said("user", "And?"), Decoding(max_new_tokens=5)))
    second = model.work
    assert second is not None
    assert second.known_tokens >= model.processor.num_image_tokens  # the picture's positions are not computed again
