"""A picture is encoded once while somebody holds it, and no longer."""

import gc

import torch

import mplug_owl.chat.pictures as pictures
from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.chat.pictures import PictureFeatures
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import Owl
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor


def made() -> tuple[Owl, list[int]]:
    """A small owl, and how many pictures it looks at each time."""
    model, looked = tiny_owl(tiny_config()), []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: looked.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return Owl(model, tiny_processor(model)), looked


def test_features_come_in_the_order_of_the_pictures() -> None:
    owl, looked = made()
    one, other = Picture(picture(1)), Picture(picture(2))
    features = PictureFeatures(owl)
    found = features([one, other, one])
    assert looked == [2]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(features([other, one]), found[[1, 2]])
    assert looked == [2]
    assert features([]) is None


def test_a_later_turn_looks_at_nothing_again() -> None:
    owl, looked = made()
    model, talk = OwlChatModel(owl), Conversation(()).said("user", Picture(picture(1)), "What?")
    (answer,) = model.answers([talk], Decoding(max_new_tokens=3))
    later = talk.said("assistant", answer).said("user", "Where?")
    assert model.answers([later], Decoding(max_new_tokens=3)) == OwlChatModel(owl).answers([later], Decoding(max_new_tokens=3))
    assert looked == [1, 1]  # the second is the other model's


def test_many_pictures_are_looked_at_some_at_a_time() -> None:
    owl, looked = made()
    shown = [Picture(picture(seed)) for seed in range(pictures.PICTURES_AT_ONCE + 3)]
    PictureFeatures(owl)(shown)
    assert looked == [pictures.PICTURES_AT_ONCE, 3]


def test_features_go_with_the_picture_that_they_belong_to() -> None:
    owl, looked = made()
    features, shown = PictureFeatures(owl), [Picture(picture(1)), Picture(picture(2))]
    features(shown)
    assert len(features._kept) == 2
    del shown[0]
    gc.collect()
    assert len(features._kept) == 1
    features([Picture(picture(1))])  # an equal one that was never seen
    assert looked == [2, 1]


def test_no_more_than_so_many_bytes_are_kept(monkeypatch) -> None:
    owl, looked = made()
    features, shown = PictureFeatures(owl), [Picture(picture(seed)) for seed in range(4)]
    size = features(shown[:1])[0].nbytes
    monkeypatch.setattr(pictures, "KEPT_BYTES", 2 * size)
    features(shown[1:])
    assert looked == [1, 3]
    features(shown[2:])
    assert looked == [1, 3]
    assert len(features([shown[0]])) == 1
    assert looked == [1, 3, 1]
