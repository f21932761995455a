"""A folder of pictures: their words in one table beside them, or each picture's in a text file of the same name."""

import os
from collections.abc import Iterator
from pathlib import Path

from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.records import Records, decode
from mplug_owl.data.sources.shards import PICTURES
from mplug_owl.data.sources.table import read_table
from mplug_owl.errors import BadSample, UserError

# The second row is what Hugging Face's image folders have; captions.txt is Flickr8k's, a table in spite of its name.
TABLES = (
    *("captions.jsonl", "captions.json", "captions.csv", "captions.tsv", "captions.txt"),
    *("metadata.jsonl", "metadata.csv"),
)


class Pictures:
    """The pictures below a folder, in the order of their names; `cat.jpg` has its words in `cat.txt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(_below(folder))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, str]:
        words = (self.folder / self.names[index]).with_suffix(".txt")
        try:
            return {"image": self.names[index], "caption": decode(words.read_bytes())}
        except FileNotFoundError:
            raise BadSample(f"{self.location(index)}: no {words.name} beside it") from None
        except BadSample as error:
            raise BadSample(f"{words.relative_to(self.folder)}: {error}") from None

    def location(self, index: int) -> str:
        """The picture's name in the folder."""
        return self.names[index]


def is_folder(path: Path) -> bool:
    """Whether a folder has pictures with words in it."""
    return _table(path) is not None or next(_below(path), None) is not None


def open_folder(path: Path) -> Records:
    """The pictures of a folder with their words. Raises UserError where there are none."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        raise UserError(f"{path}: a file; expected a folder of pictures")
    if (table := _table(path)) is not None:
        return read_json(table) if table.suffix in (".json", ".jsonl") else read_table(table)
    if not len(pictures := Pictures(path)):
        raise UserError(f"{path}: no pictures in the folder ({', '.join(PICTURES)})")
    return pictures


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _below(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            if name.rpartition(".")[2].lower() in PICTURES and not name.startswith("."):
                yield str(Path(place, name).relative_to(folder))
