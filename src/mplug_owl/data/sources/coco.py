"""COCO captions: one JSON file of images and of annotations, joined to one record an annotation."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mplug_owl.data.sources.records import describe, field, read_whole

# What such a file begins with: it is one object, as a rule on a single line of many megabytes.
_OPENING = re.compile(rb'\s*\{\s*"(info|images|annotations|licenses|categories|type)"\s*:')


class Annotations:
    """Captions, each with its picture's name. Pairs and no objects: COCO has 600,000 and worker processes get a copy."""

    def __init__(self, path: Path, folder: Path, files: Mapping[Any, str], annotations: list[Any]) -> None:
        self.path, self.folder, self.files = path, folder, files
        self.pairs = [
            (one.get("image_id"), one.get("caption")) if isinstance(one, Mapping) else (None, None) for one in annotations
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, caption = self.pairs[index]
        if number not in self.files:
            raise ValueError(f"{self.location(index)}: image_id {number!r} is not among the file's images")
        return {"image": self.files[number], "caption": caption}

    def location(self, index: int) -> str:
        """`captions_val2017.json, annotation 17`."""
        return f"{self.path.name}, annotation {index + 1}"


def is_coco(path: Path) -> bool:
    """Whether a file looks like COCO's."""
    with path.open("rb") as file:
        return _OPENING.match(file.read(4096)) is not None


def join(path: Path) -> Annotations:
    """The captions of a file such as annotations/captions_val2017.json, whose pictures are in val2017/ beside its folder."""
    whole = read_whole(path)
    images, annotations = field(whole, "images", list, path.name), field(whole, "annotations", list, path.name)
    if not images or not annotations:
        raise ValueError(f"{path}: no records in the file; expected images and annotations")
    if not any(isinstance(one, Mapping) and "caption" in one for one in annotations):
        raise ValueError(f"{path}: {describe(annotations[0])} without a caption; expected COCO's captions_*.json")
    files = {}
    for index, image in enumerate(images):
        where = f"{path.name}, images[{index}]"
        files[field(image, "id", object, where)] = field(image, "file_name", str, where)
    return Annotations(path, _pictures(path, next(iter(files.values()))), files, annotations)


def _pictures(path: Path, first: str) -> Path:
    """The folder that has the first picture, of those where COCO's stand."""
    split, here, above = path.stem.rpartition("_")[2], path.parent, path.parent.parent
    folders = [here, here / "images", here / split, above / split, above / "images" / split, above / "images", above]
    found = next((folder for folder in folders if (folder / first).is_file()), None)
    if found is None:
        raise ValueError(f"{path.name}: no picture {first}; looked for it in {', '.join(map(str, folders))}")
    return found
