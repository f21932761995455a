"""Crops and prompts: within their bounds, spread over them, the same for the same sample, and never mirrored."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mplug_owl.conversation import Conversation, Message, Picture, caption
from mplug_owl.data.augment import PROMPTS, crop_box, with_caption_prompt, with_one_answer
from mplug_owl.data.mixture import SampleId
from mplug_owl.model.images import MplugOwlImageProcessor

CAT = Path("cat.png")
SIDE = st.integers(1, 900)


@given(SIDE, SIDE, st.floats(0.01, 1.0), st.integers(0, 99))
def test_a_crop_is_inside_and_of_its_size_and_shape(width: int, height: int, smallest: float, index: int) -> None:
    left, top, right, bottom = crop_box((width, height), smallest, 0, SampleId(0, 0, index), 0)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    wide, high = right - left, bottom - top
    if min(width, height) > 100 and 3 * max(width, height) < 4 * min(width, height) and smallest > 0.1:
        assert 0.98 * smallest < wide * high / (width * height) <= 1
        assert 0.73 < wide / high < 1.37


def test_crops_are_spread_over_what_they_may_be() -> None:
    boxes = [crop_box((400, 300), 0.5, 0, SampleId(0, 0, index), 0) for index in range(500)]
    areas = [(right - left) * (bottom - top) / 120_000 for left, top, right, bottom in boxes]
    assert min(areas) < 0.53
    assert max(areas) > 0.9
    middles = np.array([(left + right - 400, top + bottom - 300) for left, top, right, bottom in boxes])
    assert (abs(middles.mean(0)) < 10).all()  # to the left as often as to the right
    assert (middles.std(0) > 15).all()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((1, SampleId(0, 0, 0), 0), id="seed"),
        pytest.param((0, SampleId(1, 0, 0), 0), id="source"),
        pytest.param((0, SampleId(0, 1, 0), 0), id="epoch"),
        pytest.param((0, SampleId(0, 0, 1), 0), id="record"),
        pytest.param((0, SampleId(0, 0, 0), 1), id="picture"),
    ],
)
def test_everything_that_tells_a_sample_apart_counts(other: tuple[int, SampleId, int]) -> None:
    usual = crop_box((400, 300), 0.5, 0, SampleId(0, 0, 0), 0)
    assert crop_box((400, 300), 0.5, 0, SampleId(0, 0, 0), 0) == usual
    assert crop_box((400, 300), 0.5, *other) != usual


def test_a_strip_shows_its_middle() -> None:
    assert crop_box((4000, 30), 0.9, 0, SampleId(0, 0, 0), 0) == (1980, 0, 2020, 30)
    assert crop_box((30, 4000), 0.9, 0, SampleId(0, 0, 0), 0) == (0, 1980, 30, 2020)


def test_left_stays_left() -> None:
    """Flipped, the dark half would be on the right."""
    images = MplugOwlImageProcessor(32)
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 120, dtype=np.uint8), (90, 1))).convert("RGB")
    for index in range(100):
        square = images.square(picture, crop_box(picture.size, 0.3, 0, SampleId(0, 0, index), 0)).astype(int)
        assert (square[:, -1] - square[:, 0] > 20).all()


def test_a_caption_is_asked_for_in_every_way() -> None:
    bare = caption(CAT, "a cat", "line 1")
    talks = [with_caption_prompt(bare, 0, SampleId(0, 0, index)) for index in range(200)]
    used = Counter(talk.messages[0].text for talk in talks)
    assert used.keys() == set(PROMPTS)
    assert min(used.values()) > 5
    assert {(talk.pictures, talk.answers, talk.system, talk.name) for talk in talks} == {
        (bare.pictures, bare.answers, bare.system, "line 1")
    }
    assert talks[0].prompt(reply=False, end="|") == f"Human: <image>\nHuman: {talks[0].messages[0].text}\nAI: a cat|"
    assert with_caption_prompt(bare, 0, SampleId(0, 0, 0)) == talks[0]


@pytest.mark.parametrize(
    "talk",
    [
        Conversation(()).said("user", Picture(CAT), "Where is it?").said("assistant", "there"),
        Conversation(()).said("user", "Hello").said("assistant", "hi"),
        Conversation(()).said("assistant", "a document"),
        caption(CAT, "a cat").said("user", "And its name?"),
    ],
    ids=["asked", "words", "document", "longer"],
)
def test_what_is_no_bare_caption_stays_as_it_is(talk: Conversation) -> None:
    assert with_caption_prompt(talk, 0, SampleId(0, 0, 0)) is talk


def test_each_epoch_learns_one_of_several_answers() -> None:
    reply = Message("assistant", ("one",), alternatives=("two", "three"))
    talk = replace(caption(CAT, "one"), messages=(Message("user", (Picture(CAT),)), reply))
    seen = Counter(with_one_answer(talk, 0, SampleId(0, epoch, 7)).answers[0] for epoch in range(300))
    assert seen.keys() == {"one", "two", "three"}
    assert min(seen.values()) > 70
    again = with_one_answer(talk, 0, SampleId(0, 3, 7))
    assert again == with_one_answer(talk, 0, SampleId(0, 3, 7))
    assert again.messages[1].alternatives == ()
    alone = caption(CAT, "one")
    assert with_one_answer(alone, 0, SampleId(0, 0, 0)) is alone
