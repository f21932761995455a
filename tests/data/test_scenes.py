"""The drawn world: the same for the same seed, no two pictures alike, and everything said of it is true."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from mplug_owl.data.scenes import COLOURS, PLACES, SHAPES, Scene, scenes, write
from mplug_owl.data.sources import check, read

RED_STAR = Scene("star", "red", "in the top left", seed=1)


def test_a_seed_always_gives_the_same_scenes() -> None:
    assert list(scenes(20, seed=3)) == list(scenes(20, seed=3))
    assert list(scenes(20, seed=3)) != list(scenes(20, seed=4))
    assert list(scenes(20, seed=3))[:5] == list(scenes(5, seed=3))


def test_every_shape_colour_and_place_comes_up() -> None:
    made = list(scenes(300, seed=0))
    assert {scene.shape for scene in made} == SHAPES.keys()
    assert {scene.colour for scene in made} == COLOURS.keys()
    assert {scene.place for scene in made} == PLACES.keys()


def test_no_two_pictures_of_a_scene_are_alike() -> None:
    one, other = (np.asarray(Scene("star", "red", "in the middle", seed).draw(56)) for seed in (1, 2))
    assert np.array_equal(one, np.asarray(Scene("star", "red", "in the middle", 1).draw(56)))
    assert (one != other).mean() > 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_has_its_colour_at_its_place(shape: str) -> None:
    for place, colour in product(PLACES, COLOURS):
        picture = np.asarray(Scene(shape, colour, place, seed=8).draw(), dtype=float)
        x, y = (round(centre * 112) for centre in PLACES[place])
        seen = picture[y - 4 : y + 5, x - 4 : x + 5].mean((0, 1))
        assert min(COLOURS, key=lambda name: np.abs(seen - COLOURS[name]).sum()) == colour


def test_its_caption_and_answers_tell_all_of_it() -> None:
    assert RED_STAR.caption in (
        "A red star in the top left.",
        "There is a red star in the top left.",
        "The picture shows a red star in the top left.",
    )
    assert Scene("circle", "orange", "in the middle", 2).caption.lower().count("an orange circle") == 1
    assert sorted(RED_STAR.questions()) == [
        ("What colour is the star?", "The star is red."),
        ("What shape is it?", "It is a star."),
        ("Where is the star?", "It is in the top left."),
    ]


def test_written_down_every_file_can_be_read(tmp_path: Path) -> None:
    made = write(tmp_path, 4, seed=6)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [f"0000{number}.png" for number in range(4)]
    sources = {name: read(str(tmp_path / f"{name}.jsonl")) for name in ("captions", "chats", "text")}
    assert [len(source) for source in sources.values()] == [4, 4, 8]
    assert [check(source) for source in sources.values()] == [[], [], []]
    for number, scene in enumerate(made):
        talk = sources["chats"][number]
        asked = [message.text for message in talk.messages if message.role == "user"]
        assert list(zip(asked, talk.answers, strict=True)) == scene.questions()
        assert sources["captions"][number].answers == (scene.caption,)
    assert all(not talk.pictures for talk in sources["text"])
    assert json.loads((tmp_path / "captions.jsonl").read_text().splitlines()[0])["image"] == "00000.png"
