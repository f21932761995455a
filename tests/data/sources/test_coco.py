"""COCO's captions: one conversation an annotation."""

import json
import pickle
from pathlib import Path

import pytest

from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from mplug_owl.errors import UserError
from tests.data.sources.layouts import every, jpeg


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO's folders, with two pictures and three captions."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for number in (139, 285):
        (tmp_path / "val2017" / f"{number:012d}.jpg").write_bytes(jpeg(number))
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 40, "height": 30} for number in (139, 285)]
    notes = [{"image_id": image, "id": 7 + note, "caption": f"note {note}\n"} for note, image in enumerate((285, 139, 285))]
    whole = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": notes}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(whole))
    return tmp_path / "annotations" / "captions_val2017.json"


def test_coco_is_one_conversation_an_annotation(coco: Path) -> None:
    for spec in (str(coco), f"coco:{coco}"):
        source = read(spec)
        assert (source.name, check(source)) == (f"coco:{coco}", [])
        assert [talk.answers[0] for talk in every(source)] == ["note 0", "note 1", "note 2"]
        assert source[1] == caption(coco.parents[1] / "val2017" / "000000000139.jpg", "note 1", source[1].name)
        assert source[1].name == "captions_val2017.json, annotation 2"
    coco.write_text(json.dumps(json.loads(coco.read_text()), indent=2))
    assert len(read(str(coco))) == 3
    assert pickle.loads(pickle.dumps(source))[1] == source[1]


def test_coco_that_is_broken(coco: Path) -> None:
    whole = json.loads(coco.read_text())
    whole["annotations"][0]["image_id"] = 5
    whole["annotations"][1]["caption"] = None
    coco.write_text(json.dumps({**whole, "annotations": [*whole["annotations"], "?"]}))
    assert check(read(str(coco))) == [
        "captions_val2017.json, annotation 1: image_id 5 is not among the file's images",
        "captions_val2017.json, annotation 2: field 'caption' is null; expected text",
        "captions_val2017.json, annotation 4: image_id None is not among the file's images",
    ]
    coco.write_text(json.dumps({**whole, "annotations": [{"image_id": 139, "bbox": [0, 0, 1, 1]}]}))
    with pytest.raises(ValueError, match=r"without a caption; expected COCO's captions_\*\.json"):
        read(str(coco))
    coco.write_text(json.dumps({**whole, "images": []}))
    with pytest.raises(ValueError, match="expected images and annotations"):
        read(str(coco))
    coco.write_text(json.dumps(whole))
    (coco.parents[1] / "val2017").rename(coco.parents[1] / "elsewhere")
    with pytest.raises(ValueError, match=r"no picture 000000000139\.jpg; looked for it in .*val2017"):
        read(str(coco))


def test_cocos_pictures_may_be_elsewhere(coco: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (tmp_path / "val2017").rename(root / "val2017")
    with pytest.raises(UserError, match=r"no picture 000000000139\.jpg; looked for it in"):
        read(str(coco))
    for folder in (root, root / "val2017"):
        assert check(read(str(coco), folder)) == []
        assert read(str(coco), folder)[1].pictures[0].source == root / "val2017" / "000000000139.jpg"


@pytest.mark.parametrize("number", [[1], {"a": 1}])
def test_an_odd_id_is_no_crash(coco: Path, number: object) -> None:
    whole = json.loads(coco.read_text())
    whole["annotations"][0]["image_id"] = number
    coco.write_text(json.dumps(whole))
    assert "is not among the file's images" in check(read(str(coco)))[0]
    whole["images"][0]["id"] = number
    coco.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"field 'id' is .*; expected a number"):
        read(str(coco))
