"""Experts: the drawn world's detector against its scenes, zooming, labels of transformers, and readers."""

import numpy as np
import pytest
from PIL import Image

from mplug_owl.errors import UserError
from mplug_owl.experiments.experts.drawn import SceneDetector, SceneTagger, things_in
from mplug_owl.experiments.experts.expert import Asked, Zoom
from mplug_owl.experiments.experts.labels import where
from mplug_owl.experiments.experts.reading import RapidReader, SceneReader
from mplug_owl.scenes import scenes
from tests.experiments.experts.stubs import Scripted


def test_the_detector_finds_what_is_drawn() -> None:
    """And no letter is a thing."""
    shown = [*scenes(30, seed=5), *scenes(10, seed=6, split="combinations")]
    assert sum(things_in(scene.draw()) == list(scene.things) for scene in shown) >= 36


def test_detector_and_tagger_say_it_as_descriptions_do() -> None:
    scene = next(scene for scene in scenes(50, seed=1) if len(scene.things) == 3 and not scene.writings)
    assert SceneDetector().look(scene.draw(), "").words == scene.description
    assert SceneTagger().look(scene.draw(), "").words == ", ".join(thing.name for thing in scene.things)


def test_an_empty_picture_holds_nothing() -> None:
    noise = np.random.default_rng(0).normal(140, 9, (112, 112, 3)).clip(0, 255).astype(np.uint8)
    assert SceneDetector().look(Image.fromarray(noise), "").words == ""


@pytest.mark.parametrize(
    ("asked", "name", "corners"),
    [
        ("top left", "top-left", [0, 0, 0, 0]),
        ("the bottom, right", "bottom-right", [240, 240, 240, 240]),
        ("center", "centre", [0, 80, 160, 240]),
    ],
)
def test_zoom_cuts_out_what_it_is_asked_for(asked: str, name: str, corners: list[int]) -> None:
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[:30, 30:], pixels[30:, :30], pixels[30:, 30:] = 80, 160, 240
    found = Zoom().look(Image.fromarray(pixels), asked.replace(",", ""))
    ((called, part),) = found.parts
    assert (called, max(part.size)) == (name, 640)
    levels = np.asarray(part)[..., 0]
    assert levels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == corners
    assert set(np.unique(levels)) >= set(corners)
    assert len(set(corners)) > 1 or (levels == corners[0]).all()


@pytest.mark.parametrize("asked", ["", "somewhere", "top bottom"])
def test_zoom_of_no_part_is_nothing(asked: str) -> None:
    assert Zoom().look(Image.new("RGB", (9, 9)), asked).parts == ()


def test_a_scene_is_read_row_by_row() -> None:
    model = Scripted("APPLE", "nothing", "7")
    assert SceneReader(model).look(Image.new("RGB", (9, 9)), "").words == "APPLE at the top, 7 at the bottom"
    assert [talk.messages[0].text for talk in model.heard][1] == "What is written in the middle?"
    assert SceneReader(Scripted("", "APPLE", " .")).look(Image.new("RGB", (9, 9)), "").words == "APPLE in the middle"


def test_any_model_that_sees_is_an_expert() -> None:
    model = Scripted("A cat.", "Nothing.", ".")
    asked = Asked(model, "Describe it.")
    assert [asked.look(Image.new("RGB", (9, 9)), "").words for _ in range(3)] == ["A cat.", "", ""]
    assert (model.heard[0].system, model.heard[0].messages[0].text) == (None, "Describe it.")


def test_rapidocr_is_given_its_order_of_colours_and_unsure_lines_are_left_out() -> None:
    given = []

    def engine(levels: np.ndarray) -> tuple[object, object]:
        given.append(levels[0, 0].tolist())
        return [[[0, 0], " OPEN ", "0.98"], [[0, 9], "l|", "0.31"], [[0, 20], "TODAY", 0.7]], [0.1]

    reader = RapidReader(engine=engine)
    assert reader.look(Image.new("RGB", (9, 9), (1, 2, 3)), "").words == "OPEN\nTODAY"
    assert given == [[3, 2, 1]]
    assert RapidReader(engine=lambda levels: (None, None)).look(Image.new("L", (9, 9)), "").words == ""


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rapidocr_onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'mplug-owl\[experts\]'"):
        RapidReader().look(Image.new("RGB", (9, 9)), "")


def test_points_have_names() -> None:
    assert [where(across, down) for down in (0, 0.5, 1) for across in (0, 0.5, 1)] == [
        *("top left", "top middle", "top right"),
        *("middle left", "centre", "middle right"),
        *("bottom left", "bottom middle", "bottom right"),
    ]
    assert [where(across, 0.5) for across in (0.33, 0.34, 0.66, 0.67)] == ["middle left", "centre", "centre", "middle right"]
