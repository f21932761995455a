"""COCO captions: one JSON file of images and of annotations, joined to one record an annotation."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mplug_owl.data.sources.json_file import read_whole
from mplug_owl.data.sources.records import check_file, decode, describe, field, parse_json, unpacked
from mplug_owl.errors import BadSample, UserError

# What such a file begins with: it is one object, as a rule on a single line of many megabytes.
_OPENING = re.compile(rb'\s*\{\s*"(info|images|annotations|licenses|categories|type)"\s*:')
# As far as the end of the first line is looked for.
_LOOKED_INTO = 2**20


class Annotations:
    """Captions, each with its picture's name. Pairs and no objects: COCO has 600,000 and worker processes get a copy."""

    def __init__(self, path: Path, folder: Path, files: Mapping[object, str], annotations: list[Any]) -> None:
        self.path, self.folder, self.files = path, folder, files
        self.pairs = [
            (one.get("image_id"), one.get("caption")) if isinstance(one, Mapping) else (None, None) for one in annotations
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, caption = self.pairs[index]
        if isinstance(number, (list, dict)) or number not in self.files:
            raise BadSample(f"{self.location(index)}: image_id {number!r:.60} is not among the file's images")
        return {"image": self.files[number], "caption": caption}

    def location(self, index: int) -> str:
        """`captions_val2017.json, annotation 17`."""
        return f"{self.path.name}, annotation {index + 1}"


def is_coco(path: Path) -> bool:
    """Whether a file looks like COCO's, or like one of its relatives: one object, and not one on each line."""
    with unpacked(path).open("rb") as file:
        start = file.read(_LOOKED_INTO).removeprefix(b"\xef\xbb\xbf")
    first, _, rest = start.lstrip().partition(b"\n")
    if _OPENING.match(start) is None:
        return False
    try:
        record = parse_json(decode(first))
    except BadSample:
        return True  # the object is longer than this line, or than what was read
    return not rest.strip() and isinstance(record, Mapping) and "annotations" in record


def join(path: Path, image_root: Path | None = None) -> Annotations:
    """The captions of a file such as annotations/captions_val2017.json, whose pictures are in val2017/ beside its folder.

    Raises UserError where the file is something else.
    """
    check_file(path)
    whole = read_whole(unpacked(path), path.name)
    if isinstance(whole, Mapping) and "images" not in whole and "annotations" in whole:
        raise UserError(
            f"{path}: annotations without images, as MiniGPT-4 has them and COCO does not; "
            'write them as records, {"image": FILE, "caption": TEXT}'
        )
    images, annotations = field(whole, "images", list, path.name), field(whole, "annotations", list, path.name)
    if not images or not annotations:
        raise UserError(f"{path}: no records in the file; expected images and annotations")
    if not any(isinstance(one, Mapping) and "caption" in one for one in annotations):
        raise UserError(f"{path}: {describe(annotations[0])} without a caption; expected COCO's captions_*.json")
    files = {}
    for index, image in enumerate(images):
        where = f"{path.name}, images[{index}]"
        number: object = field(image, "id", object, where)
        if isinstance(number, (list, dict)):
            raise UserError(f"{where}: field 'id' is {describe(number)}; expected a number")
        files[number] = field(image, "file_name", str, where)
    return Annotations(path, _pictures(path, next(iter(files.values())), image_root), files, annotations)


def _pictures(path: Path, first: str, image_root: Path | None) -> Path:
    """The folder that has the first picture, of those where COCO's stand."""
    split, here, above = path.stem.rpartition("_")[2], path.parent, path.parent.parent
    folders = [here, here / "images", here / split, above / split, above / "images" / split, above / "images", above]
    folders = [*([image_root, image_root / split] if image_root else []), *folders]
    found = next((folder for folder in folders if (folder / first).is_file()), None)
    if found is None:
        raise UserError(f"{path.name}: no picture {first}; looked for it in {', '.join(map(str, folders))}")
    return found
